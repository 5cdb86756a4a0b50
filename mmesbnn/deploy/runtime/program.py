"""Program of a network for the native library: steps on maps in one block of memory.

A map stores the channels of a pixel next to each other, as float32, int16, or bits in words
of 64. A program processes one image. Its steps::

    input        (C, H, W) of an image -> map
    real_conv    float map -> float map, of real weights
    binary_conv  bits -> int16 or float map: sums of products of signs
    pool         float map -> float map: mean or maximum of windows
    sweep        elementwise instructions for all pixels
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

from dataclasses import dataclass
from typing import Any

from .program_maps import ALIGNMENT, MAP_KINDS, MOST_MAPS, MOST_MEMORY, Data, Map
from .program_steps import BinaryConv, Input, Output, Pool, RealConv, Step
from .program_sweeps import Sweep
from .schema import Integer, ListOf, Nested, Part, Tagged, Unfit, entry, inside

VERSION = 1
#: Largest number of operations for an image, see :meth:`Step.work`. ES-BNext-L has a tenth at
#: 1333x800. A core takes a minute or two for as many.
MOST_WORK = 2**38
_MOST_STEPS = 2**16
#: Largest number of parts of a map for which a sweep adds up its means separately.
MOST_TILES = 64

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
    maps: tuple[Map, ...] = entry(ListOf(Nested(Map), 1, MOST_MAPS))
    steps: tuple[Step, ...] = entry(ListOf(_AnyStep(), 2, _MOST_STEPS))
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
