"""Names of signs and weight binarizers: those of this package, and those of registries.

The tables need torch only. :mod:`mmesbnn.registry` adds mmengine's registries to them.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from torch import nn

from ..checks import check, shown
from .arguments import BUILT

_Class = TypeVar('_Class', bound=type[nn.Module])

_own_only: ContextVar[bool] = ContextVar('own_only', default=False)


@contextlib.contextmanager
def own_entries_only() -> Iterator[None]:
    """Build no sign and no weight binarizer of another package, for configs of unknown files."""
    token = _own_only.set(True)
    try:
        yield
    finally:
        _own_only.reset(token)


class Entries:
    """Table of classes by name.

    Args:
        argument: Argument that holds a spec, for messages.

    Attributes:
        own: Classes of this package.
        others: Registry of further classes: a function that finds a class by its name, and a
            function that lists the names. Default None.
    """

    def __init__(self, argument: str) -> None:
        self.argument = argument
        self.own: dict[str, type[nn.Module]] = {}
        self.others: tuple[Callable[[str], Any], Callable[[], Iterable[str]]] | None = None

    def add(self, *names: str) -> Callable[[_Class], _Class]:
        """Return a decorator that adds a class of this package under ``names``."""

        def decorate(kind: _Class) -> _Class:
            self.own.update(dict.fromkeys(names, kind))
            return kind

        return decorate

    def find(self, name: str) -> Any:
        """Return the class with this name, None if there is none."""
        if self.others is not None and not _own_only.get():
            return self.others[0](name)
        return self.own.get(name)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        listed = set(self.own)
        if self.others is not None and not _own_only.get():
            listed.update(self.others[1]())
        return sorted(listed)

    def filled(self, spec: Any, **known: Any) -> Any:
        """Return ``spec`` as a dict with further arguments; return a module unchanged.

        Args:
            spec: As :meth:`build`'s.
            **known: Arguments that the caller knows. The dict gets those that the constructor
                of its class has and that ``spec`` does not give.

        Raises:
            ValueError: If the name is unknown.
        """
        check(self.argument, spec, BUILT)
        if isinstance(spec, nn.Module):
            return spec
        options = {'type': spec} if isinstance(spec, str) else dict(spec)
        parameters = inspect.signature(self._class(options.get('type'), spec)).parameters
        return {**{name: x for name, x in known.items() if name in parameters}, **options}

    def build(self, spec: Any, **known: Any) -> nn.Module:
        """Build a module from its name or a dict with ``type``; copy a module.

        Layers therefore never share a module, whose parameters or state could differ.

        Args:
            spec: ``'hard_tanh'``, ``dict(type='hard_tanh', clip=1.5)``, ``dict(type=MySign)``
                or a module.
            **known: As :meth:`filled`'s.

        Raises:
            ValueError: If the name is unknown, or the class does not take the arguments.
        """
        if isinstance(spec, nn.Module):
            return copy.deepcopy(spec)
        options = self.filled(spec, **known)
        kind = self._class(options.pop('type'), spec)
        try:
            module = kind(**options)
        except (TypeError, ValueError) as error:
            raise ValueError(f'{shown(self.argument, spec)}: {error}') from error
        if not isinstance(module, nn.Module):
            raise ValueError(
                f'{shown(self.argument, spec)}: it builds a {type(module).__name__}, not a module'
            )
        return module

    def _class(self, kind: Any, spec: Any) -> Any:
        found = self.find(kind) if isinstance(kind, str) else kind
        is_class = isinstance(found, type) or (isinstance(kind, str) and found is not None)
        if is_class and not (_own_only.get() and found not in self.own.values()):
            return found
        more = ''
        if _own_only.get() and self.others is not None:
            more = '; a config of an unknown file cannot name those of other packages'
        raise ValueError(
            f'{shown(self.argument, spec)}: the type must be one of {self.names()}{more}'
        )


#: Signs of activations.
SIGNS = Entries('sign')
#: Binarizers of weights.
WEIGHT_BINARIZERS = Entries('weight_binarizer')


def with_zero(sign: Any, weight_binarizer: Any, sign_zero: int) -> dict[str, Any]:
    """Return a network's sign and weight binarizer as arguments of its layers.

    Args:
        sign: As :func:`mmesbnn.binary.build_sign`'s ``spec``.
        weight_binarizer: As :func:`mmesbnn.binary.build_weight_binarizer`'s ``spec``.
        sign_zero: Value of sign(0), -1 or 0. A class with an argument ``zero`` gets it, unless
            the spec gives another one.

    Raises:
        ValueError: If a name is unknown, or if ``sign_zero`` is 0 and neither takes it.
    """
    parts = dict(
        sign=SIGNS.filled(sign, zero=sign_zero),
        weight_binarizer=WEIGHT_BINARIZERS.filled(weight_binarizer, zero=sign_zero),
    )
    taken = [part.get('zero') == sign_zero for part in parts.values() if isinstance(part, dict)]
    if sign_zero != -1 and not any(taken):
        raise ValueError(
            f'{shown("sign_zero", sign_zero)} has no effect: {shown("sign", sign)} and '
            f'{shown("weight_binarizer", weight_binarizer)} have a zero of their own or none'
        )
    return parts
