"""Kinds of values in a JSON file from an unknown source. Needs Python only.

A kind checks a value and raises an :class:`Unfit` that names the place of the value, the
value and the rule::

    Record({'size': ListOf(Integer(1, 100), 2, 2)}).check({'size': [0, 5]}, 'pad')
    # Unfit: pad.size[0]=0 must be an integer from 1 to 100
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import shorten

if TYPE_CHECKING:
    from typing_extensions import Self


#: Smallest number of a file by which values in float32 are divided. Many smaller ones are 0 in
#: float32, or their quotients infinite.
LEAST_DIVISOR = 1e-30


class Unfit(ValueError):
    """Error about a value that breaks the rule of its kind.

    Attributes:
        where: Place of the value.
        value: Value that breaks the rule.
        rule: Rule that it breaks.
    """

    def __init__(self, where: str, value: Any, rule: str) -> None:
        super().__init__(f'{where}={shorten(repr(value), 80)} must be {rule}')
        self.where, self.value, self.rule = where, value, rule


def joined(place: str, entry: str) -> str:
    """Return the name of an entry at a place, such as ``pad.size``."""
    return f'{place}.{entry}' if place and entry else place or entry


@contextlib.contextmanager
def inside(place: str) -> Iterator[None]:
    """Add ``place`` to every :class:`Unfit` that is raised inside."""
    try:
        yield
    except Unfit as error:
        raise Unfit(joined(place, error.where), error.value, error.rule) from None


class Kind:
    """Base of kinds of values, each with its rule."""

    def check(self, value: Any, where: str) -> None:
        """Raise :class:`Unfit` if ``value`` at the place ``where`` breaks the rule."""
        raise NotImplementedError

    def read(self, value: Any, where: str) -> Any:
        """Check a value of a JSON file, and return it in the form of a :class:`Part`."""
        self.check(value, where)
        return value


def _is_number(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


@dataclass(frozen=True)
class Integer(Kind):
    """Kind of integers from ``least`` to ``most``."""

    least: int
    most: int

    def check(self, value: Any, where: str) -> None:
        if not (_is_number(value, (int,)) and self.least <= value <= self.most):
            raise Unfit(where, value, f'an integer from {self.least} to {self.most}')


@dataclass(frozen=True)
class Number(Kind):
    """Kind of finite numbers from ``least`` to ``most``, or above ``least`` if ``above``."""

    least: float
    most: float
    above: bool = False

    def check(self, value: Any, where: str) -> None:
        # NaN is outside every range; an integer of any length compares with a float
        fits = _is_number(value, (int, float)) and self.least <= value <= self.most
        if not fits or (self.above and value == self.least):
            start = f'above {self.least:g}' if self.above else f'from {self.least:g}'
            raise Unfit(where, value, f'a number {start} to {self.most:g}')


@dataclass(frozen=True)
class Flag(Kind):
    """Kind of true and false."""

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, bool):
            raise Unfit(where, value, 'true or false')


@dataclass(frozen=True)
class OneOf(Kind):
    """Kind of the strings ``choices``."""

    choices: tuple[str, ...]

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in self.choices:
            raise Unfit(where, value, f'one of {", ".join(self.choices)}')


@dataclass(frozen=True)
class Text(Kind):
    """Kind of strings that a terminal can show, without control characters and surrogates."""

    longest: int
    least: int = 0

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, str) or not self.least <= len(value) <= self.longest:
            raise Unfit(where, value, f'a string of {self.least} to {self.longest}')
        if any(c < ' ' or '\x7f' <= c < '\xa0' or '\ud800' <= c < '\ue000' for c in value):
            raise Unfit(where, value, 'a string without control characters')


@dataclass(frozen=True)
class Digits(Kind):
    """Kind of strings of ``count`` hexadecimal digits."""

    count: int

    def check(self, value: Any, where: str) -> None:
        digits = isinstance(value, str) and set(value) <= set('0123456789abcdef')
        if not digits or len(value) != self.count:
            raise Unfit(where, value, f'{self.count} hexadecimal digits')


@dataclass(frozen=True)
class Maybe(Kind):
    """Kind of values of another kind, or null."""

    kind: Kind

    def check(self, value: Any, where: str) -> None:
        if value is not None:
            self.kind.check(value, where)

    def read(self, value: Any, where: str) -> Any:
        return None if value is None else self.kind.read(value, where)


@dataclass(frozen=True)
class ListOf(Kind):
    """Kind of lists of ``least`` to ``most`` values of a kind."""

    kind: Kind
    least: int
    most: int

    def check(self, value: Any, where: str) -> None:
        self._check_length(value, where)
        for i, entry in enumerate(value):
            self.kind.check(entry, f'{where}[{i}]')

    def read(self, value: Any, where: str) -> tuple[Any, ...]:
        self._check_length(value, where)
        return tuple(self.kind.read(entry, f'{where}[{i}]') for i, entry in enumerate(value))

    def _check_length(self, value: Any, where: str) -> None:
        if not isinstance(value, (list, tuple)):
            raise Unfit(where, value, 'a list')
        if not self.least <= len(value) <= self.most:
            count = f'{self.least} to {self.most}'
            count = str(self.least) if self.least == self.most else count
            raise Unfit(where, value, f'a list of {count} entries')


@dataclass(frozen=True)
class Record(Kind):
    """Kind of dicts with known keys.

    Attributes:
        required: Kinds of the required keys.
        optional: Kinds of the optional keys.
        closed: Whether other keys are forbidden.
    """

    required: Mapping[str, Kind] = field(default_factory=dict)
    optional: Mapping[str, Kind] = field(default_factory=dict)
    closed: bool = True

    def check(self, value: Any, where: str) -> None:
        self.check_keys(value, where)
        known = {**self.required, **self.optional}
        for key in known.keys() & value.keys():
            known[key].check(value[key], joined(where, key))

    def check_keys(self, value: Any, where: str) -> None:
        """Check the keys, but not their values."""
        if not isinstance(value, Mapping):
            raise Unfit(where, value, 'a dict')
        missing = [key for key in self.required if key not in value]
        if missing:
            raise Unfit(where, dict(value), f'a dict with {", ".join(missing)}')
        known = list({**self.required, **self.optional})
        for key, entry in value.items():
            if self.closed and key not in known:
                name = joined(where, shorten(str(key), 40))
                raise Unfit(name, entry, f'left out; known are {", ".join(known)}')


@dataclass(frozen=True)
class Either(Kind):
    """Kind of values of one of two kinds; errors name the rule of the second kind."""

    first: Kind
    second: Kind

    def check(self, value: Any, where: str) -> None:
        try:
            self.first.check(value, where)
        except Unfit:
            self.second.check(value, where)

    def read(self, value: Any, where: str) -> Any:
        try:
            return self.first.read(value, where)
        except Unfit:
            return self.second.read(value, where)


def entry(kind: Kind, **options: Any) -> Any:
    """Make an entry of a :class:`Part`: a dataclass field whose values have a kind.

    Args:
        kind: Kind of the values.
        **options: As for :func:`dataclasses.field`.
    """
    return field(metadata={'kind': kind}, **options)


def _default(of: Field[Any]) -> Any:
    return of.default_factory() if of.default_factory is not MISSING else of.default


def _plain(value: Any) -> Any:
    """Convert a value for JSON."""
    if isinstance(value, Part):
        return value.to_dict()
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Part:
    """Base of frozen dataclasses that check themselves and are stored in JSON files.

    :func:`entry` makes their fields. The file may leave out a field with a default.
    """

    #: Whether other keys are forbidden in the file.
    CLOSED: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not _default(one):
                one.metadata['kind'].check(value, one.name)
        self.check_relations()

    def check_relations(self) -> None:
        """Raise :class:`Unfit` if entries contradict each other."""

    @classmethod
    def read_entries(cls, content: Any, where: str = '') -> dict[str, Any]:
        """Read the values of the fields from a dict of a JSON file."""
        kinds = {one.name: one.metadata['kind'] for one in fields(cls)}
        required = {one.name: kinds[one.name] for one in fields(cls) if _default(one) is MISSING}
        Record(required, kinds, cls.CLOSED).check_keys(content, where)
        return {
            name: kind.read(content[name], joined(where, name))
            for name, kind in kinds.items()
            if name in content
        }

    @classmethod
    def from_dict(cls, content: Any, where: str = '') -> Self:
        """Read a dict of a JSON file.

        Args:
            content: Dict to read.
            where: Place of the dict, for messages. Default: the top.

        Raises:
            Unfit: If an entry is missing, breaks its rule, or contradicts another.
        """
        entries = cls.read_entries(content, where)
        with inside(where):
            return cls(**entries)

    def to_dict(self) -> dict[str, Any]:
        """Return the entries for JSON, without those that have their default."""
        values = ((one, getattr(self, one.name)) for one in fields(self))
        return {one.name: _plain(value) for one, value in values if value != _default(one)}


@dataclass(frozen=True)
class Nested(Kind):
    """Kind of a :class:`Part` of a class, read from a dict."""

    part: type[Part]

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, self.part):
            raise Unfit(where, value, f'a {self.part.__name__}')

    def read(self, value: Any, where: str) -> Part:
        return self.part.from_dict(value, where)


@dataclass(frozen=True)
class Tagged(Kind):
    """Kind of a :class:`Part` whose class the string under ``key`` names."""

    key: str
    parts: Mapping[str, type[Part]]

    def check(self, value: Any, where: str) -> None:
        if type(value) not in self.parts.values():
            raise Unfit(where, value, f'one of {", ".join(self.parts)}')

    def read(self, value: Any, where: str) -> Part:
        Record({self.key: OneOf(tuple(self.parts))}, closed=False).check(value, where)
        rest = {key: entry for key, entry in value.items() if key != self.key}
        return self.parts[value[self.key]].from_dict(rest, where)
