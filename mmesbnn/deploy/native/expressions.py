"""Elementwise expressions on maps; equal expressions are the same object.

An expression has a value for every pixel and channel. It reads maps through arrays of
channel numbers, so tiling, splitting, joining and reshaping of channels only change these
arrays, and nothing is copied for them::

    tile(x, 2)  with  x = a * map  becomes  [a a] * map[[0 1 .. 0 1 ..]]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(eq=False)
class MapValue:
    """A map that a step writes.

    Attributes:
        kind: ``'float'``, ``'int16'`` or ``'bits'``.
        height, width, channels: Its size.
        writers: Writers of its parts, in the order of their channels.
    """

    kind: str
    height: int
    width: int
    channels: int
    writers: list[Any] = field(default_factory=list)

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width


@dataclass(frozen=True, eq=False)
class Expression:
    """Base of expressions; made by :class:`Expressions` only."""


@dataclass(frozen=True, eq=False)
class Read(Expression):
    """Read of channels of a map.

    Attributes:
        map: The map. A map of a single pixel counts for all pixels.
        index: Channel of the map for each channel of the expression.
    """

    map: MapValue
    index: np.ndarray

    @property
    def is_whole(self) -> bool:
        """Return true if it reads all channels of the map in order."""
        flat = self.index.ravel()
        return len(flat) == self.map.channels and bool((flat == np.arange(len(flat))).all())


@dataclass(frozen=True, eq=False)
class Constant(Expression):
    """A value per channel, the same for all pixels."""

    value: np.ndarray


@dataclass(frozen=True, eq=False)
class Apply(Expression):
    """An operator of :data:`mmesbnn.deploy.runtime.program_sweeps.OPERATORS`."""

    name: str
    arguments: tuple[Expression, ...]


Change = Callable[[np.ndarray], np.ndarray]


class Expressions:
    """Maker of expressions; equal expressions are the same object."""

    def __init__(self) -> None:
        self._known: dict[Any, Expression] = {}

    def read(self, source: MapValue, index: np.ndarray) -> Expression:
        """Read channels of a map."""
        index = np.ascontiguousarray(index, np.int64)
        key = ('read', id(source), index.shape, index.tobytes())
        return self._known.setdefault(key, Read(source, index))

    def constant(self, value: np.ndarray) -> Expression:
        """Make a constant."""
        value = np.ascontiguousarray(value, np.float32)
        key = ('constant', value.shape, value.tobytes())
        return self._known.setdefault(key, Constant(value))

    def apply(self, name: str, *arguments: Expression) -> Expression:
        """Apply an operator; results of constants are computed at once.

        Args:
            name: The operator.
            *arguments: Expressions with the same channels.
        """
        values = [x.value for x in arguments if isinstance(x, Constant)]
        if len(values) == len(arguments) and name in _FOLDED:
            return self.constant(_FOLDED[name](*values))
        key = (name, *map(id, arguments))
        return self._known.setdefault(key, Apply(name, arguments))

    def changed(self, x: Expression, change: Change) -> Expression:
        """Rearrange channels.

        Args:
            x: The expression.
            change: Function of the arrays of channels.
        """
        done: dict[Expression, Expression] = {}

        def visit(x: Expression) -> Expression:
            if x not in done:
                if isinstance(x, Read):
                    done[x] = self.read(x.map, change(x.index))
                elif isinstance(x, Constant):
                    done[x] = self.constant(change(x.value))
                else:
                    assert isinstance(x, Apply)
                    done[x] = self.apply(x.name, *map(visit, x.arguments))
            return done[x]

        return visit(x)

    def replaced(
        self, x: Expression, replacement: Callable[[Read], Expression | None]
    ) -> Expression:
        """Replace the reads for which ``replacement`` returns an expression."""
        done: dict[Expression, Expression] = {}

        def visit(x: Expression) -> Expression:
            if x not in done:
                new: Expression | None = None
                if isinstance(x, Read):
                    new = replacement(x)
                elif isinstance(x, Apply):
                    new = self.apply(x.name, *map(visit, x.arguments))
                done[x] = x if new is None else new
            return done[x]

        return visit(x)

    def joined(self, parts: Sequence[Expression], axis: int) -> Expression | None:
        """Join expressions that differ only in their arrays of channels, or return None."""
        first = parts[0]
        if isinstance(first, Apply):
            same = [
                x
                for x in parts
                if isinstance(x, Apply)
                and (x.name, len(x.arguments)) == (first.name, len(first.arguments))
            ]
            if len(same) < len(parts):
                return None
            arguments = [self.joined(xs, axis) for xs in zip(*(x.arguments for x in same))]
            whole = [x for x in arguments if x is not None]
            return self.apply(first.name, *whole) if len(whole) == len(arguments) else None
        if isinstance(first, Constant):
            values = [x.value for x in parts if isinstance(x, Constant)]
            if len(values) < len(parts):
                return None
            return self.constant(np.concatenate(values, axis))
        assert isinstance(first, Read)
        reads = [x for x in parts if isinstance(x, Read) and x.map is first.map]
        if len(reads) < len(parts):
            return None
        return self.read(first.map, np.concatenate([x.index for x in reads], axis))


_FOLDED: dict[str, Callable[..., np.ndarray]] = {
    'add': np.add,
    'sub': np.subtract,
    'mul': np.multiply,
    'max': np.maximum,
    'min': np.minimum,
}


def parts_of(x: Expression) -> Iterator[Expression]:
    """Yield an expression and all its parts, each once, arguments first."""
    seen: set[Expression] = set()

    def visit(x: Expression) -> Iterator[Expression]:
        if x in seen:
            return
        seen.add(x)
        if isinstance(x, Apply):
            for argument in x.arguments:
                yield from visit(argument)
        yield x

    return visit(x)


def reads_of(x: Expression) -> list[Read]:
    """Return the reads in an expression, each once."""
    return [part for part in parts_of(x) if isinstance(part, Read)]


def channels_of(x: Expression) -> tuple[int, ...]:
    """Return the shape of an expression's channels."""
    while isinstance(x, Apply):
        x = x.arguments[0]
    if isinstance(x, Read):
        return x.index.shape
    assert isinstance(x, Constant)
    return x.value.shape


def run_of(index: np.ndarray) -> tuple[int, int] | None:
    """Return offset and period if ``index`` is ``offset + c % period``, else None."""
    again = np.flatnonzero(index == index[0])
    period = int(again[1]) if len(again) > 1 else len(index)
    expected = index[0] + np.arange(len(index)) % period
    return (int(index[0]), period) if (index == expected).all() else None
