"""Names of signs and weight binarizers: those of this package, and those of registries.

The tables need torch only. :mod:`mmesbnn.registry` adds mmengine's registries to them.
"""

from __future__ import annotations

import contextlib
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

    def build(self, spec: Any, **known: Any) -> nn.Module:
        """Build a module from its name or a dict with ``type``; return a module unchanged.

        Args:
            spec: ``'hard_tanh'``, ``dict(type='hard_tanh', clip=1.5)``, ``dict(type=MySign)``
                or a module.
            **known: Arguments that the caller knows. A class gets those that its constructor
                has and that ``spec`` does not give.

        Raises:
            ValueError: If the name is unknown, or the class does not take the arguments.
        """
        if isinstance(spec, nn.Module):
            return spec
        check(self.argument, spec, BUILT)
        options = {'type': spec} if isinstance(spec, str) else dict(spec)
        kind = self._class(options.pop('type', None), spec)
        for name, value in known.items():
            if name in inspect.signature(kind).parameters:
                options.setdefault(name, value)
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
