"""Kinds of values that a JSON file from elsewhere may hold, with Python alone.

A kind checks a value and raises an :class:`Unfit` that says where the value stands,
what it is, and the rule::

    Record({'size': ListOf(Integer(1, 100), 2, 2)}).check({'size': [0, 5]}, 'pad')
    # Unfit: pad.size[0]=0 must be an integer from 1 to 100
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...errors import shorten


class Unfit(ValueError):
    """A value that is not of its kind."""

    def __init__(self, where: str, value: Any, rule: str) -> None:
        super().__init__(f'{where}={shorten(repr(value), 80)} must be {rule}')


class Kind(Protocol):
    """What a value may be."""

    def check(self, value: Any, where: str) -> None:
        """Raise :class:`Unfit` if ``value``, which stands at ``where``, is not it."""


def _is_number(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


@dataclass(frozen=True)
class Integer:
    """An integer from ``least`` to ``most``."""

    least: int
    most: int

    def check(self, value: Any, where: str) -> None:
        if not (_is_number(value, (int,)) and self.least <= value <= self.most):
            raise Unfit(where, value, f'an integer from {self.least} to {self.most}')


@dataclass(frozen=True)
class Number:
    """A finite number from ``least`` to ``most``; ``above``: more than ``least``."""

    least: float
    most: float
    above: bool = False

    def check(self, value: Any, where: str) -> None:
        # NaN is in no range; an integer of any length compares with a float
        fits = _is_number(value, (int, float)) and self.least <= value <= self.most
        if not fits or (self.above and value == self.least):
            start = f'above {self.least:g}' if self.above else f'from {self.least:g}'
            raise Unfit(where, value, f'a number {start} to {self.most:g}')


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, bool):
            raise Unfit(where, value, 'true or false')


@dataclass(frozen=True)
class OneOf:
    """One of some strings."""

    choices: tuple[str, ...]

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in self.choices:
            raise Unfit(where, value, f'one of {", ".join(self.choices)}')


@dataclass(frozen=True)
class Text:
    """A string that a terminal can show: no control characters, no half characters."""

    longest: int
    least: int = 0

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, str) or not self.least <= len(value) <= self.longest:
            raise Unfit(where, value, f'a string of {self.least} to {self.longest}')
        if any(c < ' ' or '\x7f' <= c < '\xa0' or '\ud800' <= c < '\ue000' for c in value):
            raise Unfit(where, value, 'a string without control characters')


@dataclass(frozen=True)
class Digits:
    """A string of ``count`` hexadecimal digits."""

    count: int

    def check(self, value: Any, where: str) -> None:
        digits = isinstance(value, str) and set(value) <= set('0123456789abcdef')
        if not digits or len(value) != self.count:
            raise Unfit(where, value, f'{self.count} hexadecimal digits')


@dataclass(frozen=True)
class Maybe:
    """A value of a kind, or null."""

    kind: Kind

    def check(self, value: Any, where: str) -> None:
        if value is not None:
            self.kind.check(value, where)


@dataclass(frozen=True)
class ListOf:
    """A list of ``least`` to ``most`` values of a kind."""

    kind: Kind
    least: int
    most: int

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, (list, tuple)):
            raise Unfit(where, value, 'a list')
        if not self.least <= len(value) <= self.most:
            count = f'{self.least} to {self.most}'
            count = str(self.least) if self.least == self.most else count
            raise Unfit(where, value, f'a list of {count} entries')
        for i, entry in enumerate(value):
            self.kind.check(entry, f'{where}[{i}]')


@dataclass(frozen=True)
class Record:
    """A dict with known keys.

    Attributes:
        required: Kinds of the keys that it has.
        optional: Kinds of those that it may have.
        closed: Whether it has no other keys.
    """

    required: Mapping[str, Kind] = field(default_factory=dict)
    optional: Mapping[str, Kind] = field(default_factory=dict)
    closed: bool = True

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise Unfit(where, value, 'a dict')
        missing = [key for key in self.required if key not in value]
        if missing:
            raise Unfit(where, dict(value), f'a dict with {", ".join(missing)}')
        known = {**self.required, **self.optional}
        for key, entry in value.items():
            if key in known:
                known[key].check(entry, f'{where}.{key}' if where else key)
            elif self.closed:
                name = f'{where}.{shorten(str(key), 40)}' if where else str(key)
                raise Unfit(name, entry, f'left out; known are {", ".join(known)}')


@dataclass(frozen=True)
class Tagged:
    """A dict whose kind depends on the string under ``key``."""

    key: str
    kinds: Mapping[str, Record]

    def check(self, value: Any, where: str) -> None:
        Record({self.key: OneOf(tuple(self.kinds))}, closed=False).check(value, where)
        kind = self.kinds[value[self.key]]
        rest = {key: entry for key, entry in value.items() if key != self.key}
        kind.check(rest, where)


@dataclass(frozen=True)
class Either:
    """A value of one of two kinds; the second one's rule is the one that is named."""

    first: Kind
    second: Kind

    def check(self, value: Any, where: str) -> None:
        try:
            self.first.check(value, where)
        except Unfit:
            self.second.check(value, where)
