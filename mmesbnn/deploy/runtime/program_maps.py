"""Maps and data of a program, and the limits of their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .schema import Integer, OneOf, Part, Unfit, entry

#: Alignment of maps in bytes.
ALIGNMENT = 64
#: Kernels in a block of packed weights.
BINARY_LANES, REAL_LANES = 8, 16
MAP_KINDS = ('float', 'int16', 'bits')
#: Largest sum of a binary convolution that a map of each kind can hold.
LARGEST_SUM = {'int16': 2**15 - 1, 'float': 2**24}
MOST_MAPS, LONGEST_SIDE, MOST_CHANNELS = 2**16, 2**16, 2**20
#: Largest number of bytes that a program needs for an image: its maps, outputs and sums. The
#: backbone of an ES-BNext-T detector at 1333x800 needs a sixth.
MOST_MEMORY = 2**31


@dataclass(frozen=True, kw_only=True)
class Map(Part):
    """Map in the memory.

    Attributes:
        kind: ``'float'``, ``'int16'`` or ``'bits'``.
        height, width, channels: Its size.
        offset: First byte.
    """

    kind: str = entry(OneOf(MAP_KINDS))
    height: int = entry(Integer(1, LONGEST_SIDE))
    width: int = entry(Integer(1, LONGEST_SIDE))
    channels: int = entry(Integer(1, MOST_CHANNELS))
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
