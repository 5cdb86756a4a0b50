"""Checks of arguments: rules of values, and the error sentence if a value breaks a rule.

The module needs Python only, because some command lines run without torch. A rule holds a
test of values and its description::

    positive_int = integer(1)
    check('tau', tau, positive_int)  # ValueError: tau=0 must be an integer >= 1

A decorator gives the rules of the arguments of a function or of ``__init__``. Errors name an
argument as the caller wrote it::

    @checked(in_channels=positive_int, spread=number(least=0))
    def __init__(self, in_channels: int, spread: float = 0.5, centred: bool = True): ...
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import shorten

_Function = TypeVar('_Function', bound=Callable[..., Any])

#: Largest number of characters of a value in a message.
LONGEST_VALUE = 200


@dataclass(frozen=True)
class Rule:
    """Rule that a value must obey.

    Attributes:
        says: The rule in words, such as ``'an integer >= 1'``.
        accepts: Function that returns True if a value follows the rule.
        reason: Function that describes a fault inside the value, '' if there is none. The
            message holds this description. Default None.
    """

    says: str
    accepts: Callable[[Any], bool]
    reason: Callable[[Any], str] | None = None


def shown(name: str, value: Any) -> str:
    """Return ``name=value`` in one line of limited length."""
    return f'{name}={shorten(repr(value), LONGEST_VALUE)}'


def _follows(value: Any, rule: Rule) -> bool:
    try:
        return rule.accepts(value)
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError):
        return False  # the value cannot be compared


def check(name: str, value: Any, rule: Rule) -> None:
    """Raise a ``ValueError`` that names the value if it does not follow ``rule``."""
    if not _follows(value, rule):
        more = rule.reason(value) if rule.reason else ''
        more = f' ({more})' if more else ''
        raise ValueError(f'{shown(name, value)} must be {rule.says}{more}')


# numbers --------------------------------------------------------------------------


def _range(
    least: float | None, most: float | None, above: float | None = None, below: float | None = None
) -> str:
    if least is not None and most is not None:
        return f' from {least} to {most}'
    if above is not None and below is not None:
        return f' between {above} and {below}'
    parts = [f'> {above}'] if above is not None else []
    parts += [f'< {below}'] if below is not None else []
    parts += [f'>= {least}'] if least is not None else []
    parts += [f'<= {most}'] if most is not None else []
    return ' ' + ' and '.join(parts) if parts else ''


def _is_int(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def integer(least: int | None = None, most: int | None = None) -> Rule:
    """Return the rule of an integer, of Python or numpy, but not a bool."""

    def accepts(value: Any) -> bool:
        return (
            _is_int(value) and (least is None or value >= least) and (most is None or value <= most)
        )

    return Rule('an integer' + _range(least, most), accepts)


def number(
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Rule:
    """Return the rule of a finite number, of Python or numpy, but not a bool."""

    def accepts(value: Any) -> bool:
        return (
            _is_number(value)
            and math.isfinite(value)
            and (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    says = _range(least, most, above, below)
    bounded = says.startswith((' from', ' between'))
    return Rule(('a number' if bounded else 'a finite number') + says, accepts)


# others ---------------------------------------------------------------------------


def _listed(values: Sequence[Any]) -> str:
    if len(values) == 1:
        return repr(values[0])
    if len(values) == 2:
        return f'{values[0]!r} or {values[1]!r}'
    return f'one of {tuple(values)}'


def _alike(value: Any, known: Any) -> bool:
    """Return True if the two can be equal: ``True`` is not 1, a tensor is not a number."""
    return (
        isinstance(value, type(known)) and isinstance(value, bool) == isinstance(known, bool)
    ) or (_is_number(value) and _is_number(known))


def one_of(*values: Any) -> Rule:
    """Return the rule of one of ``values``, of the same kind: ``True`` is not 1."""

    def accepts(value: Any) -> bool:
        return any(_alike(value, x) and value == x for x in values)

    return Rule(_listed(values), accepts)


def instance(kind: type | tuple[type, ...], says: str) -> Rule:
    """Return the rule of an instance of ``kind``."""
    return Rule(says, lambda value: isinstance(value, kind))


def either(*rules: Rule) -> Rule:
    """Return the rule of values that one of the rules accepts."""

    def reason(value: Any) -> str:
        reasons = [rule.reason(value) for rule in rules if rule.reason]
        return next(filter(None, reasons), '')

    return Rule(
        ' or '.join(dict.fromkeys(rule.says for rule in rules)),
        lambda value: any(_follows(value, rule) for rule in rules),
        reason,
    )


def optional(rule: Rule) -> Rule:
    """Return the rule of values that ``rule`` accepts, or None."""
    return either(rule, none)


def pair(rule: Rule) -> Rule:
    """Return the rule of one value for height and width, or a list of the two."""

    def accepts(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return len(value) == 2 and all(_follows(x, rule) for x in value)
        return _follows(value, rule)

    return Rule(f'{rule.says}, or a pair of them', accepts)


def sequence(
    rule: Rule, length: int | None = None, shortest: int = 0, distinct: bool = False
) -> Rule:
    """Return the rule of a list or similar whose values all follow ``rule``; no text.

    Args:
        rule: Rule of each value.
        length: Number of values. Default None: any number.
        shortest: Smallest number of values. Default 0.
        distinct: Whether values must be different. Default False.
    """

    def accepts(value: Any) -> bool:
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            return False
        return (
            (length is None or len(value) == length)
            and len(value) >= shortest
            and all(_follows(x, rule) for x in value)
            and not (distinct and len(set(value)) < len(value))
        )

    count = f'{length} values' if length is not None else 'values'
    count = f'{shortest} or more values' if length is None and shortest else count
    different = 'different ' if distinct else ''
    return Rule(
        f'a list of {count.replace("values", different + "values")}, each {rule.says}', accepts
    )


def mapping(required: Iterable[str] = (), allowed: Iterable[str] | None = None) -> Rule:
    """Return the rule of a dict with texts as keys.

    Args:
        required: Required keys. Default ``()``.
        allowed: Further keys that are allowed. Default None: any keys.
    """
    required = tuple(required)
    known = None if allowed is None else (*required, *allowed)

    def reason(value: Any) -> str:
        if not isinstance(value, Mapping):
            return ''
        missing = [key for key in required if key not in value]
        unknown = [key for key in value if known is not None and key not in known]
        unknown += [key for key in value if not isinstance(key, str)]
        return '; '.join(
            f'{shorten(repr(keys), LONGEST_VALUE)} {what}'
            for keys, what in ((missing, 'is missing'), (unknown, 'is unknown'))
            if keys
        )

    says = f'a dict with {", ".join(required)}' if required else 'a dict'
    if allowed is not None:
        says += (', maybe ' if required else ' with ') + ', '.join(allowed)
    return Rule(says, lambda value: isinstance(value, Mapping) and not reason(value), reason)


def each(mapping_rule: Rule, **rules: Rule) -> Rule:
    """Return the rule of a dict that follows ``mapping_rule``, with ``rules`` of its values."""

    def reason(value: Any) -> str:
        if not isinstance(value, Mapping):
            return ''
        if not mapping_rule.accepts(value):
            return mapping_rule.reason(value) if mapping_rule.reason else ''
        return '; '.join(
            f'{shown(key, value[key])} must be {rule.says}'
            for key, rule in rules.items()
            if key in value and not _follows(value[key], rule)
        )

    return Rule(
        mapping_rule.says, lambda value: mapping_rule.accepts(value) and not reason(value), reason
    )


def _takes_nothing(value: Any) -> bool:
    try:
        inspect.signature(value).bind()
    except TypeError:  # no function, or one with arguments
        return False
    except ValueError:  # some built-in functions have no signature
        return True
    return True


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _zero_byte(value: Any) -> str:
    return 'it holds a zero byte' if _is_path(value) and '\0' in os.fsdecode(value) else ''


none = Rule('None', lambda value: value is None)
flag = Rule('True or False', lambda value: isinstance(value, bool))
text = instance(str, 'a text')
filled_text = Rule('a text', lambda value: isinstance(value, str) and bool(value))
path = Rule(
    'a path',
    lambda value: _is_path(value) and bool(os.fspath(value)) and not _zero_byte(value),
    _zero_byte,
)
function = Rule('a function', callable)
procedure = Rule('a function that needs no argument', _takes_nothing)
positive_int = integer(1)
natural = integer(0)
positive = number(above=0)
not_negative = number(least=0)
probability = number(0, 1)

#: Rules of annotations.
_ANNOTATIONS = {
    'None': none,
    'bool': flag,
    'dict': mapping(),
    'float': number(),
    'int': integer(),
    'list': instance(list, 'a list'),
    'os.PathLike': path,
    'Path': path,
    'str': text,
}


def _annotated(annotation: Any) -> Rule | None:
    """Return the rule of an annotation such as ``'int | None'``, None if it has no rule."""
    if annotation is inspect.Parameter.empty:
        return None
    if not isinstance(annotation, str):
        annotation = inspect.formatannotation(annotation)
    parts = [part.split('[')[0].strip() for part in annotation.split('|')]
    if not set(parts) <= set(_ANNOTATIONS):
        return None
    if 'str' in parts and {'os.PathLike', 'Path'} & set(parts):
        parts.remove('str')  # the rule of a path includes text, except empty text
    rules = [_ANNOTATIONS[part] for part in parts]
    return rules[0] if len(rules) == 1 else either(*rules)


def checked(**rules: Rule) -> Callable[[_Function], _Function]:
    """Make a function check its arguments before it runs; a decorator.

    An argument without a rule must follow its annotation, if that consists of ``int``,
    ``float`` (finite), ``bool``, ``str``, ``dict`` and ``None``. Defaults are not checked.

    Args:
        **rules: Rules of arguments, and of names in ``**kwargs``.
    """

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        table = dict(rules)
        rest = None
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                rest = name
            elif parameter.kind is not parameter.VAR_POSITIONAL and name not in table:
                rule = _annotated(parameter.annotation)
                if rule is not None:
                    table[name] = rule

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                given = dict(signature.bind(*args, **kwargs).arguments)
            except TypeError:  # Python's own error names a missing or unknown argument
                return function(*args, **kwargs)
            given.update(given.pop(rest, {}) if rest else {})
            for name, value in given.items():
                if name in table:
                    check(name, value, table[name])
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate


def check_positive(**numbers: Any) -> None:
    """Raise a ``ValueError`` that names the first number that is not an integer >= 1."""
    for name, value in numbers.items():
        check(name, value, positive_int)
