"""Program of a network for the native library: steps on maps in one block of memory.

A map stores the channels of a pixel next to each other, as float32, int16, or bits in words
of 64. A program processes one image. Its steps::

    input        (C, H, W) of an image -> map
    real_conv    float map -> float map, of real weights
    binary_conv  bits -> int16 or float map: sums of products of signs
    pool         float map -> float map: mean or maximum of windows
    sweep        elementwise instructions for all pixels, see :class:`Sweep`
    output       map -> (C, H, W); a program has one or more outputs, in the order of these steps

A convolution writes ``kernels`` channels of its target, starting at channel ``at``. Windows
start ``padding`` pixels above and to the left of the map. Values outside of the map are 0,
or ``pad_value`` for a binary convolution.

The weights are in the program's data. A real convolution has float32 weights
``(groups, blocks, taps, channels, 16)``, with the kernels of a group in blocks of 16;
``weights`` is an index of the data's floats. A binary convolution has words
``(blocks, taps, words, 8)``; ``weights`` is an index of the data's words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

from .schema import Flag, Integer, Kind, ListOf, Nested, OneOf, Part, Tagged, Unfit, entry, inside

#: Alignment of maps in bytes.
ALIGNMENT = 64
VERSION = 1
#: Kernels in a block of packed weights.
BINARY_LANES, REAL_LANES = 8, 16
REGISTERS = 16
MAP_KINDS = ('float', 'int16', 'bits')
#: Largest sum of a binary convolution that a map of each kind can hold.
LARGEST_SUM = {'int16': 2**15 - 1, 'float': 2**24}

_MAPS, _STEPS, _CODE, _SIDE, _CHANNELS, _WINDOW = 2**16, 2**16, 2**12, 2**16, 2**20, 2**12
#: Largest number of bytes that a program needs for an image: its maps, outputs and sums. The
#: backbone of an ES-BNext-T detector at 1333x800 needs a sixth.
MOST_MEMORY = 2**31
#: Largest number of operations for an image, see :meth:`Step.work`. ES-BNext-L has a tenth at
#: 1333x800. A core takes a minute or two for as many.
MOST_WORK = 2**38
#: Largest number of parts of a map for which a sweep adds up its means separately.
MOST_TILES = 64
#: Operators of a sweep in the order of their numbers, with their numbers of operands.
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
NOTHING, REGISTER, CONSTANT, MAP, MEAN, POOL = range(6)

_NUMBER, _INDEX = Integer(0, _MAPS - 1), Integer(0, MOST_MEMORY)


def _in_vectors(channels: int) -> int:
    """Return a number of channels, rounded up to whole vectors."""
    return -(-channels // REAL_LANES) * REAL_LANES


def _pair(least: int, most: int = _WINDOW) -> Kind:
    return ListOf(Integer(least, most), 2, 2)


@dataclass(frozen=True, kw_only=True)
class Map(Part):
    """Map in the memory.

    Attributes:
        kind: ``'float'``, ``'int16'`` or ``'bits'``.
        height, width, channels: Its size.
        offset: First byte.
    """

    kind: str = entry(OneOf(MAP_KINDS))
    height: int = entry(Integer(1, _SIDE))
    width: int = entry(Integer(1, _SIDE))
    channels: int = entry(Integer(1, _CHANNELS))
    offset: int = entry(Integer(0, MOST_MEMORY))

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        if self.kind == 'bits':
            return self.pixels * -(-self.channels // 64) * 8
        return self.pixels * self.channels * (4 if self.kind == 'float' else 2)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Maps and data, against which steps are checked.

    Attributes:
        maps: Maps of the program.
        nbytes: Number of bytes of its data.
    """

    maps: tuple[Map, ...]
    nbytes: int

    @cached_property
    def pixels(self) -> set[int]:
        """Numbers of pixels of all maps."""
        return {one.pixels for one in self.maps}

    def map(self, number: int, where: str, *kinds: str) -> Map:
        """Return map ``number``; it must have one of the given kinds."""
        if number >= len(self.maps) or self.maps[number].kind not in kinds:
            raise Unfit(where, number, f'the number of a map of {" or ".join(kinds)}')
        return self.maps[number]


class Step(Part):
    """Base of steps."""

    #: Number of the step in the code.
    NUMBER: ClassVar[int]

    def check_sizes(self, data: Data) -> None:
        """Raise :class:`Unfit` if it reads or writes outside of its maps or data."""
        raise NotImplementedError

    def work(self, data: Data) -> int:
        """Return the number of operations for an image.

        An operation is a multiplication and addition, the comparison of a word of bits, or an
        elementwise instruction, for one channel. Channels are counted in whole vectors.
        """
        return 0

    def code(self) -> Iterator[int]:
        """Yield the numbers of the step for the library."""
        yield self.NUMBER
        for one in fields(self):
            value = getattr(self, one.name)
            yield from value if isinstance(value, tuple) else (int(value),)


@dataclass(frozen=True, kw_only=True)
class Input(Step):
    """Copy the image to a map."""

    NUMBER = 0

    to: int = entry(_NUMBER)

    def check_sizes(self, data: Data) -> None:
        data.map(self.to, 'to', 'float')


@dataclass(frozen=True, kw_only=True)
class Output(Step):
    """Copy a map to the next output."""

    NUMBER = 1

    source: int = entry(_NUMBER)

    def check_sizes(self, data: Data) -> None:
        data.map(self.source, 'source', 'float')


@dataclass(frozen=True, kw_only=True)
class _Conv(Step):
    """A convolution, which writes ``kernels`` channels of ``to``, starting at ``at``."""

    source: int = entry(_NUMBER)
    to: int = entry(_NUMBER)
    at: int = entry(Integer(0, _CHANNELS))
    kernels: int = entry(Integer(1, _CHANNELS))
    kernel: tuple[int, int] = entry(_pair(1))
    stride: tuple[int, int] = entry(_pair(1))
    padding: tuple[int, int] = entry(_pair(0))
    dilation: tuple[int, int] = entry(_pair(1))

    def check_target(self, to: Map) -> None:
        """Raise :class:`Unfit` if ``to`` has too few channels."""
        if self.at + self.kernels > to.channels:
            raise Unfit('at', self.at, f'so that {self.kernels} of {to.channels} channels follow')


@dataclass(frozen=True, kw_only=True)
class RealConv(_Conv):
    """A real-valued convolution."""

    NUMBER = 2

    groups: int = entry(Integer(1, _CHANNELS))
    weights: int = entry(_INDEX)

    def check_sizes(self, data: Data) -> None:
        source = data.map(self.source, 'source', 'float')
        self.check_target(data.map(self.to, 'to', 'float'))
        if source.channels % self.groups or self.kernels % self.groups:
            raise Unfit('groups', self.groups, f'a divisor of {source.channels}, {self.kernels}')
        count = self._weights(source)
        if self.weights + count > data.nbytes // 4:
            raise Unfit('weights', self.weights, f'so that {count} floats follow')

    def _weights(self, source: Map) -> int:
        blocks = self.groups * -(-self.kernels // self.groups // REAL_LANES)
        depth = source.channels // self.groups
        return blocks * math.prod(self.kernel) * depth * REAL_LANES

    def work(self, data: Data) -> int:
        return data.maps[self.to].pixels * self._weights(data.maps[self.source])


@dataclass(frozen=True, kw_only=True)
class BinaryConv(_Conv):
    """A convolution of signs."""

    NUMBER = 3

    pad_value: int = entry(Integer(-1, 1))
    weights: int = entry(_INDEX)

    def check_sizes(self, data: Data) -> None:
        source = data.map(self.source, 'source', 'bits')
        to = data.map(self.to, 'to', 'int16', 'float')
        self.check_target(to)
        most = source.channels * math.prod(self.kernel)
        if most > LARGEST_SUM[to.kind]:
            raise Unfit('to', self.to, f'a map that holds {most}')
        words = self._words(source)
        if self.weights + words > data.nbytes // 8:
            raise Unfit('weights', self.weights, f'so that {words} words follow')

    def _words(self, source: Map) -> int:
        blocks = -(-self.kernels // BINARY_LANES)
        return -(-source.channels // 64) * math.prod(self.kernel) * BINARY_LANES * blocks

    def work(self, data: Data) -> int:
        return data.maps[self.to].pixels * self._words(data.maps[self.source])


@dataclass(frozen=True, kw_only=True)
class Pool(Step):
    """Mean or maximum of windows."""

    NUMBER = 4

    source: int = entry(_NUMBER)
    to: int = entry(_NUMBER)
    kernel: tuple[int, int] = entry(_pair(1))
    stride: tuple[int, int] = entry(_pair(1))
    padding: tuple[int, int] = entry(_pair(0))
    maximum: bool = entry(Flag())
    count_padding: bool = entry(Flag())

    def check_sizes(self, data: Data) -> None:
        source, to = data.map(self.source, 'source', 'float'), data.map(self.to, 'to', 'float')
        if source.channels != to.channels:
            raise Unfit('to', self.to, f'a map of {source.channels} channels')

    def work(self, data: Data) -> int:
        to = data.maps[self.to]
        return to.pixels * _in_vectors(to.channels) * math.prod(self.kernel)


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

    channels: int = entry(Integer(1, _CHANNELS))
    code: tuple[tuple[Any, ...], ...] = entry(ListOf(_Instruction(), 1, _CODE))

    def check_sizes(self, data: Data, sweep: Sweep) -> None:
        """Raise :class:`Unfit` if it reads or writes outside of its maps or data."""
        for i, (name, to, *operands) in enumerate(self.code):
            with inside(f'code[{i}]'):
                self._check_target(name, to, data, sweep)
                for j, operand in enumerate(operands):
                    self._check_operand(operand, j < OPERATORS[name], data, sweep.pixels)

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

    height: int = entry(Integer(1, _SIDE))
    width: int = entry(Integer(1, _SIDE))
    segments: tuple[Segment, ...] = entry(ListOf(Nested(Segment), 1, _STEPS))

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
        each = sum(_in_vectors(one.channels) * len(one.code) for one in self.segments)
        return self.pixels * each

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


STEPS: dict[str, type[Step]] = {
    'input': Input,
    'output': Output,
    'real_conv': RealConv,
    'binary_conv': BinaryConv,
    'pool': Pool,
    'sweep': Sweep,
}


class _AnyStep(Tagged):
    """Kind of a step; ``op`` names the step."""

    def __init__(self) -> None:
        super().__init__('op', STEPS)


@dataclass(frozen=True, kw_only=True)
class Program(Part):
    """Whole program.

    Attributes:
        memory: Bytes of all maps.
        nbytes: Bytes of the data.
        maps: Maps. Later maps may overlap maps that are no longer read.
        steps: Steps in their order.
        format: Version of the format.
    """

    memory: int = entry(Integer(0, MOST_MEMORY))
    nbytes: int = entry(Integer(0, MOST_MEMORY))
    maps: tuple[Map, ...] = entry(ListOf(Nested(Map), 1, _MAPS))
    steps: tuple[Step, ...] = entry(ListOf(_AnyStep(), 2, _STEPS))
    format: int = entry(Integer(VERSION, VERSION), default=VERSION)

    def check_relations(self) -> None:
        if self.memory % ALIGNMENT:
            raise Unfit('memory', self.memory, f'a multiple of {ALIGNMENT}')
        for i, one in enumerate(self.maps):
            if one.offset % ALIGNMENT or one.offset + one.nbytes > self.memory:
                rule = f'a multiple of {ALIGNMENT}, {one.nbytes} bytes before the end'
                raise Unfit(f'maps[{i}].offset', one.offset, rule)
        inputs, outputs = (
            sum(isinstance(step, kind) for step in self.steps) for kind in (Input, Output)
        )
        if inputs != 1:
            raise Unfit('steps', f'{inputs} of Input', 'one')
        if outputs == 0:
            raise Unfit('steps', '0 of Output', 'one or more')
        data = Data(maps=self.maps, nbytes=self.nbytes)
        for i, step in enumerate(self.steps):
            with inside(f'steps[{i}]'):
                step.check_sizes(data)
        self._check_limits(data)

    def _check_limits(self, data: Data) -> None:
        outputs = [data.maps[one.source].nbytes for one in self.steps if isinstance(one, Output)]
        sums = max((one.sums for one in self.steps if isinstance(one, Sweep)), default=0)
        memory = self.memory + sum(outputs) + 4 * MOST_TILES * sums
        work = sum(step.work(data) for step in self.steps)
        for count, most, what in (
            (memory, MOST_MEMORY, 'bytes of maps, outputs and sums'),
            (work, MOST_WORK, 'operations'),
        ):
            if count > most:
                raise Unfit('steps', f'{count:,} {what}', f'{most:,} or fewer for an image')

    def to_dict(self) -> dict[str, Any]:
        """Return the program as JSON values."""
        names = {kind: name for name, kind in STEPS.items()}
        steps = [{'op': names[type(step)], **step.to_dict()} for step in self.steps]
        return {**super().to_dict(), 'format': self.format, 'steps': steps}

    def code(self) -> list[int]:
        """Return the numbers of the program for the library."""
        numbers = [VERSION, self.memory, len(self.maps)]
        for one in self.maps:
            kind = MAP_KINDS.index(one.kind)
            numbers += [kind, one.height, one.width, one.channels, one.offset]
        numbers.append(len(self.steps))
        for step in self.steps:
            numbers += step.code()
        return numbers
