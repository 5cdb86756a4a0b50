"""Intermediate form of a network: heavy steps, and the results that sweeps must write."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .expressions import (
    Apply,
    Constant,
    Expression,
    Expressions,
    MapValue,
    Read,
    channels_of,
    parts_of,
    reads_of,
)

#: Up to this many instructions, a value is computed again instead of being stored.
CHEAP = 4


@dataclass(eq=False)
class Heavy:
    """Step that is not a sweep.

    Attributes:
        kind: ``'real_conv'``, ``'binary_conv'`` or ``'pool'``.
        source: The map it reads.
        to: The map it writes.
        at: First channel that it writes.
        channels: Number of channels that it writes.
        settings: Other settings of the program's step, without weights.
        weights: Packed weights; None for a pool.
    """

    kind: str
    source: MapValue
    to: MapValue
    at: int
    channels: int
    settings: dict[str, object]
    weights: np.ndarray | None = None


@dataclass(eq=False)
class Wanted:
    """Result that a sweep must write.

    Attributes:
        kind: ``'store'``, ``'bits'``, ``'mean'`` or ``'pool'``.
        value: The expression, of flat channels.
        limit: Limit to compare the value with, for bits.
        size: Height and width of the sweep.
        to: The map it writes.
        at: First channel that it writes.
    """

    kind: str
    value: Expression
    size: tuple[int, int]
    to: MapValue
    at: int
    channels: int
    limit: Expression | None = None


@dataclass(frozen=True, eq=False)
class Value:
    """Output of a graph's node.

    Attributes:
        expression: Its expression.
        height, width: Its size.
    """

    expression: Expression
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width


@dataclass(eq=False)
class Network:
    """All parts of a program, in the order of the graph."""

    expressions: Expressions = field(default_factory=Expressions)
    heavy: list[Heavy] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)
    image: MapValue | None = None
    outputs: list[MapValue] = field(default_factory=list)
    _stored: dict[Any, MapValue] = field(default_factory=dict)

    def flat(self, x: Expression) -> Expression:
        """Return an expression with its channels in one axis."""
        return self.expressions.changed(x, np.ravel)

    def want(self, kind: str, value: Value, to: MapValue, at: int = 0) -> Wanted:
        """Let a sweep write a value to a map, starting at channel ``at``."""
        flat = self.flat(value.expression)
        one = Wanted(kind, flat, (value.height, value.width), to, at, _length(flat))
        to.writers.append(one)
        self.wanted.append(one)
        return one

    def stored(self, value: Value) -> MapValue:
        """Return a float map that holds a value, with its channels in one axis."""
        flat = self.flat(value.expression)
        # excludes maps of one pixel that count for all pixels of another map
        source = flat.map if isinstance(flat, Read) and flat.is_whole else None
        if source is not None and source.kind == 'float' and source.pixels == value.pixels:
            return source
        key = (flat, value.height, value.width)
        if key not in self._stored:
            self._stored[key] = MapValue('float', value.height, value.width, _length(flat))
            self.want('store', value, self._stored[key])
        return self._stored[key]

    def reading(self, source: MapValue, shape: tuple[int, ...]) -> Expression:
        """Read a map, with its channels in the given shape."""
        return self.expressions.read(source, np.arange(source.channels).reshape(shape))

    def kept(self, value: Value) -> Value:
        """Return a value for several reads: it is stored, unless it is cheap to compute."""
        if _cost(value) <= CHEAP:
            return value
        return replace(value, expression=self._read_again(value))

    def vector(self, value: Value) -> Expression:
        """Return a value of one pixel for use with larger maps: a constant, or stored."""
        x = value.expression
        if isinstance(x, Constant):
            return x
        if isinstance(x, Read) and x.map.kind == 'float' and (np.diff(x.index.ravel()) == 1).all():
            return x
        return self._read_again(value)

    def _read_again(self, value: Value) -> Expression:
        return self.reading(self.stored(value), channels_of(value.expression))


def _length(x: Expression) -> int:
    return math.prod(channels_of(x))


def _cost(value: Value) -> int:
    """Return the number of instructions of a value; high if it reads several full maps."""
    reads = reads_of(value.expression)
    if len({read.map for read in reads if read.map.pixels == value.pixels}) > 1:
        return CHEAP + 1
    return sum(isinstance(part, Apply) for part in parts_of(value.expression))
