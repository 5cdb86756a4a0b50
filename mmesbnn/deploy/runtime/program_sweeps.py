"""Sweeps of a program: elementwise instructions for all pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .program_maps import LONGEST_SIDE, MOST_CHANNELS, MOST_MEMORY, Data, Map
from .program_steps import Step, in_vectors
from .schema import Integer, Kind, ListOf, Nested, OneOf, Part, Unfit, entry, inside

REGISTERS = 16
#: Operators in the order of their numbers, with their numbers of operands.
OPERATORS = {
    'copy': 1,
    'add': 2,
    'sub': 2,
    'mul': 2,
    'fma': 3,
    'fma_add': 4,
    'max': 2,
    'min': 2,
    'prelu': 2,
    'fma_prelu': 4,
    'sigmoid': 1,
    'bits': 2,
}
OPERANDS = 4
#: Operations of a sigmoid, and of preparing an instruction for one more piece of a segment.
SIGMOID_WORK, PIECE_WORK = 8, 64
NOTHING, REGISTER, CONSTANT, MAP, MEAN, POOL = range(6)

_MOST_SEGMENTS, _MOST_INSTRUCTIONS = 2**16, 2**12


class _Instruction(Kind):
    """Kind ``[operator, target, operand, ..]``; targets and operands are four integers."""

    _numbers: ClassVar[Kind] = ListOf(Integer(0, MOST_MEMORY), 4, 4)

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, (list, tuple)) or len(value) != 2 + OPERANDS:
            raise Unfit(where, value, f'an operator, a target and {OPERANDS} operands')
        OneOf(tuple(OPERATORS)).check(value[0], where)
        for numbers in value[1:]:
            self._numbers.check(numbers, where)

    def read(self, value: Any, where: str) -> Any:
        self.check(value, where)
        return (value[0], *map(tuple, value[1:]))


@dataclass(frozen=True, kw_only=True)
class Segment(Part):
    """Instructions for some channels.

    Attributes:
        channels: Number of channels.
        code: Instructions: an operator, its target and its operands. Targets and operands
            have the form ``(what, number, offset, period)``. ``what`` is 0 for nothing; 1
            for a register; 2 for constants, the data's floats starting at ``number``; 3 for
            a map, where channel ``c`` of the segment is channel ``offset + c % period`` of
            the map, and a map of one pixel counts for all pixels. Targets may also be 4, a
            map of one pixel that gets the mean of all pixels, and 5, a smaller map that
            gets the means of windows.
    """

    channels: int = entry(Integer(1, MOST_CHANNELS))
    code: tuple[tuple[Any, ...], ...] = entry(ListOf(_Instruction(), 1, _MOST_INSTRUCTIONS))

    def check_sizes(self, data: Data, sweep: Sweep) -> None:
        """Raise :class:`Unfit` if it reads or writes outside of its maps or data."""
        for i, (name, to, *operands) in enumerate(self.code):
            with inside(f'code[{i}]'):
                self._check_target(name, to, data, sweep)
                for j, operand in enumerate(operands):
                    self._check_operand(operand, j < OPERATORS[name], data, sweep.pixels)

    def work(self, pixels: int) -> int:
        """Return the number of operations, see :meth:`Step.work`.

        Where an operand repeats channels the segment is cut into pieces, each of which is
        prepared.
        """
        each = sum(SIGMOID_WORK if name == 'sigmoid' else 1 for name, *_ in self.code)
        cuts = sum(
            (self.channels - 1) // period
            for _, _, *operands in self.code
            for what, _, _, period in operands
            if what == MAP
        )
        pieces = min(cuts, self.channels - 1) * len(self.code)
        return pixels * in_vectors(self.channels) * each + pieces * PIECE_WORK

    def _check_target(self, name: str, to: Sequence[int], data: Data, sweep: Sweep) -> None:
        what, number, offset, period = to
        if what == REGISTER and name != 'bits':
            if number < REGISTERS and not offset and not period:
                return
        elif what in (MAP, MEAN, POOL) and period == self.channels:
            one = data.map(number, 'to', 'bits' if name == 'bits' else 'float')
            fits = {
                MAP: one.pixels == sweep.pixels,
                MEAN: one.pixels == 1 and name != 'bits',
                POOL: sweep.has_windows_of(one) and name != 'bits',
            }
            if fits[what] and offset + self.channels <= one.channels:
                return
        raise Unfit('to', list(to), f'where {name} can write {self.channels} channels')

    def _check_operand(self, operand: Sequence[int], needed: bool, data: Data, pixels: int) -> None:
        what, number, offset, period = operand
        if what == MAP and needed:
            one = data.map(number, 'operand', 'float', 'int16')
            vector = one.pixels == 1 != pixels
            if (
                1 <= period <= self.channels
                and offset + period <= one.channels
                and (one.pixels == pixels or (vector and one.kind == 'float'))
                and not (vector and period < self.channels)
            ):
                return
        elif not offset and not period:
            if what == NOTHING and not needed and not number:
                return
            if what == REGISTER and needed and number < REGISTERS:
                return
            if what == CONSTANT and needed and number + self.channels <= data.nbytes // 4:
                return
        raise Unfit('operand', list(operand), f'what can be read for {self.channels} channels')


@dataclass(frozen=True, kw_only=True)
class Sweep(Step):
    """Elementwise instructions.

    Operators: ``copy``, ``add``, ``sub``, ``mul``, ``fma`` (``a b + c``), ``max``,
    ``min``, ``prelu`` (``a`` where it is not negative, else ``a b``), ``sigmoid``,
    ``bits`` (``a > b``), and ``fma_add`` (``a b + c + d``), ``fma_prelu`` (``prelu`` of
    ``a b + c`` and ``d``).

    Attributes:
        height, width: Size of its maps.
        segments: Instructions for ranges of channels, in order.
    """

    NUMBER = 5

    height: int = entry(Integer(1, LONGEST_SIDE))
    width: int = entry(Integer(1, LONGEST_SIDE))
    segments: tuple[Segment, ...] = entry(ListOf(Nested(Segment), 1, _MOST_SEGMENTS))

    def check_sizes(self, data: Data) -> None:
        if self.pixels not in data.pixels:
            raise Unfit('height', self.height, 'that of a map')
        for i, segment in enumerate(self.segments):
            with inside(f'segments[{i}]'):
                segment.check_sizes(data, self)
        pooled = {
            data.maps[one[1][1]].height
            for segment in self.segments
            for one in segment.code
            if one[1][0] == POOL
        }
        if len(pooled) > 1:
            raise Unfit('segments', sorted(pooled), 'of windows of one height')

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    @property
    def sums(self) -> int:
        """Number of channels whose means it writes."""
        return sum(
            segment.channels
            for segment in self.segments
            for one in segment.code
            if one[1][0] == MEAN
        )

    def work(self, data: Data) -> int:
        return sum(one.work(self.pixels) for one in self.segments)

    def has_windows_of(self, smaller: Map) -> bool:
        """Return true if each pixel of a map matches a window of the sweep's maps."""
        return not self.height % smaller.height and not self.width % smaller.width

    def code(self) -> Iterator[int]:
        yield from (self.NUMBER, self.height, self.width, len(self.segments))
        numbers = {name: number for number, name in enumerate(OPERATORS)}
        for segment in self.segments:
            yield from (segment.channels, len(segment.code))
            for name, *operands in segment.code:
                yield numbers[name]
                for operand in operands:
                    yield from operand
