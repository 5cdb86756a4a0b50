"""Translate the sweeps of a schedule to instructions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..runtime.program_sweeps import (
    CONSTANT,
    MAP,
    MEAN,
    NOTHING,
    OPERANDS,
    POOL,
    REGISTER,
    REGISTERS,
    Segment,
)
from .axes import NotCovered
from .expressions import Apply, Constant, Expression, Expressions, MapValue, Read, parts_of, run_of
from .network import Wanted

Operand = tuple[int, int, int, int]
_NONE: Operand = (NOTHING, 0, 0, 0)
#: Up to this many reads of integers in a segment are faster than one and a register.
_MOST_READS = 2
_TARGETS = {'store': MAP, 'bits': MAP, 'mean': MEAN, 'pool': POOL}


def _is_run(read: Read, size: tuple[int, int]) -> bool:
    """Return whether an operand of a sweep over maps of ``size`` can be this read."""
    run = run_of(read.index)
    if run is None:
        return False
    # a map of one pixel is a vector for larger maps, which is not read again
    return read.map.pixels == math.prod(size) or run[1] == len(read.index)


def _cuts(wanted: Sequence[Wanted]) -> list[int]:
    """Return the channels at which to cut so that all reads are runs."""
    cuts = {0, wanted[0].channels}
    for one in wanted:
        for part in parts_of(one.value):
            if isinstance(part, Read) and not _is_run(part, wanted[0].size):
                cuts |= {int(i) + 1 for i in np.flatnonzero(np.diff(part.index) != 1)}
    return sorted(cuts)


class _Writer:
    """Writes the instructions of one segment.

    Args:
        number_of: Numbers of maps.
        place_of: Places of constants in the data.
    """

    def __init__(
        self, number_of: Callable[[MapValue], int], place_of: Callable[[np.ndarray], int]
    ) -> None:
        self._number_of, self._place_of = number_of, place_of
        self._free = list(range(REGISTERS))[::-1]
        self._left: Counter[Expression] = Counter()
        self._places: dict[Expression, Operand] = {}
        self.code: list[tuple[Any, ...]] = []

    def write(self, wanted: Sequence[Wanted]) -> None:
        """Write the instructions for all wanted results."""
        # What uses a stored value follows it, while the processor has it in its registers.
        first: dict[Expression, int] = {}
        for place, one in enumerate(wanted):
            first.setdefault(one.value, place)
        stored = {one.value for one in wanted if one.kind == 'store'}
        order = sorted(
            wanted, key=lambda one: (one.value not in stored, first[one.value], one.kind != 'store')
        )
        for one in order:
            self._left[one.value] += 1
        seen: set[Expression] = set()
        for one in order:
            for part in parts_of(one.value):
                if part not in seen and isinstance(part, Apply):
                    seen.add(part)
                    self._left.update(part.arguments)
        for one in order:
            self._write_one(one)

    def _write_one(self, one: Wanted) -> None:
        target = (_TARGETS[one.kind], self._number_of(one.to), one.at, one.channels)
        if one.kind == 'bits':
            assert one.limit is not None
            self._emit('bits', target, self._read(one.value), self._operand(one.limit))
        elif (
            isinstance(one.value, Apply)
            and one.value not in self._places
            and (one.kind == 'store' or self._left[one.value] == 1)
        ):
            self._apply(one.value, target)
        else:
            self._emit('copy', target, self._read(one.value))
        self._done(one.value)

    def _emit(self, name: str, target: Operand, *operands: Operand) -> None:
        filled = [*operands, *[_NONE] * (OPERANDS - len(operands))]
        self.code.append((name, target, *filled))

    def _read(self, x: Expression) -> Operand:
        """Compute an expression and return its operand."""
        if x not in self._places:
            if isinstance(x, Apply):
                self._apply(x, None)
            elif _is_small(x) and self._left[x] > _MOST_READS:  # made floats once
                operand = self._operand(x)
                self._places[x] = self._register()
                self._emit('copy', self._places[x], operand)
        return self._operand(x)

    def _register(self) -> Operand:
        if not self._free:
            raise NotCovered(f'a sweep needs more than {REGISTERS} registers')
        return (REGISTER, self._free.pop(), 0, 0)

    def _operand(self, x: Expression) -> Operand:
        if isinstance(x, Constant):
            return (CONSTANT, self._place_of(x.value), 0, 0)
        if isinstance(x, Read) and x not in self._places:
            run = run_of(x.index)
            assert run is not None
            return (MAP, self._number_of(x.map), *run)
        return self._places[x]

    def _done(self, x: Expression) -> None:
        """Note that one of the readers of ``x`` has read it."""
        self._left[x] -= 1
        if not self._left[x] and self._places.get(x, _NONE)[0] == REGISTER:
            self._free.append(self._places[x][1])

    def _apply(self, x: Apply, target: Operand | None) -> None:
        name, arguments = self._fused(x)
        for argument in arguments:
            self._read(argument)
        operands = [self._operand(argument) for argument in arguments]
        for argument in arguments:
            self._done(argument)
        if target is None:
            target = self._register()
        self._places[x] = target
        self._emit(name, target, *operands)

    def _only_here(self, x: Expression, name: str) -> Apply | None:
        """Return ``x`` if it is operator ``name``, not computed yet, with one reader; else None."""
        if not isinstance(x, Apply) or x.name != name or x in self._places:
            return None
        return x if self._left[x] == 1 else None

    def _fused(self, x: Apply) -> tuple[str, tuple[Expression, ...]]:
        """Fuse several operators to one, if nothing else reads the results between them."""
        if x.name == 'prelu':
            name, arguments = self._sum(self._only_here(x.arguments[0], 'add'))
            if name == 'fma':
                return 'fma_prelu', (*arguments, x.arguments[1])
        if x.name == 'add':
            for inner, other in (x.arguments, x.arguments[::-1]):
                name, arguments = self._sum(self._only_here(inner, 'add'))
                if name == 'fma':
                    a, b, c = arguments
                    return 'fma_add', (a, b, other, c)
            name, arguments = self._sum(x)
            if name == 'fma':
                return name, arguments
        return x.name, x.arguments

    def _sum(self, x: Apply | None) -> tuple[str, tuple[Expression, ...]]:
        """Return ``a b + c`` as one operator."""
        for first, other in () if x is None else (x.arguments, x.arguments[::-1]):
            product = self._only_here(first, 'mul')
            if product is not None:
                a, b = product.arguments
                return 'fma', (*((b, a) if _is_small(b) else (a, b)), other)
        return '', ()


def _is_small(x: Expression) -> bool:
    """Return true for reads of integers, which are fast only as the first operand."""
    return isinstance(x, Read) and x.map.kind == 'int16'


def _parts(one: Wanted, cuts: Iterable[int], expressions: Expressions) -> list[Wanted]:
    edges = list(cuts)
    if len(edges) == 2:
        return [one]
    parts = []
    for start, stop in pairwise(edges):
        section = slice(start, stop)

        def part(x: Expression, section: slice = section) -> Expression:
            return expressions.changed(x, lambda a: a[section])

        limit = None if one.limit is None else part(one.limit)
        value = part(one.value)
        at, channels = one.at + start, stop - start
        parts.append(replace(one, value=value, limit=limit, at=at, channels=channels))
    return parts


def _shared(wanted: Sequence[Wanted]) -> list[list[Wanted]]:
    """Group results that have equally many channels and share work."""
    groups: list[tuple[set[Expression], list[Wanted]]] = []
    for one in wanted:
        inside = {x for x in parts_of(one.value) if not isinstance(x, Constant)}
        for known, group in groups:
            if group[0].channels == one.channels and known & inside:
                known |= inside
                group.append(one)
                break
        else:
            groups.append((inside, [one]))
    return [group for _, group in groups]


def segments(
    wanted: Sequence[Wanted],
    expressions: Expressions,
    number_of: Callable[[MapValue], int],
    place_of: Callable[[np.ndarray], int],
) -> list[Segment]:
    """Return the segments of a sweep.

    Args:
        wanted: What it writes.
        expressions: Maker of expressions.
        number_of: Numbers of maps.
        place_of: Places of constants in the data.

    Raises:
        NotCovered: If there are too few registers.
    """
    result = []
    for group in _shared(wanted):
        cuts = _cuts(group)
        for parts in zip(*(_parts(one, cuts, expressions) for one in group)):
            writer = _Writer(number_of, place_of)
            writer.write(parts)
            result.append(Segment(channels=parts[0].channels, code=tuple(writer.code)))
    return result
