"""Steps of a program besides sweeps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

from .program_maps import (
    BINARY_LANES,
    LARGEST_SUM,
    MOST_CHANNELS,
    MOST_MAPS,
    MOST_MEMORY,
    REAL_LANES,
    Data,
    Map,
)
from .schema import Flag, Integer, Kind, ListOf, Part, Unfit, entry

_MAP, _WEIGHTS = Integer(0, MOST_MAPS - 1), Integer(0, MOST_MEMORY)
_LARGEST_WINDOW = 2**12


def in_vectors(channels: int) -> int:
    """Return a number of channels, rounded up to whole vectors."""
    return -(-channels // REAL_LANES) * REAL_LANES


def _pair(least: int) -> Kind:
    return ListOf(Integer(least, _LARGEST_WINDOW), 2, 2)


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
        elementwise instruction, for one channel; what takes longer counts several times.
        Channels are counted in whole vectors.
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

    to: int = entry(_MAP)

    def check_sizes(self, data: Data) -> None:
        data.map(self.to, 'to', 'float')


@dataclass(frozen=True, kw_only=True)
class Output(Step):
    """Copy a map to the next output."""

    NUMBER = 1

    source: int = entry(_MAP)

    def check_sizes(self, data: Data) -> None:
        data.map(self.source, 'source', 'float')


@dataclass(frozen=True, kw_only=True)
class _Conv(Step):
    """A convolution, which writes ``kernels`` channels of ``to``, starting at ``at``."""

    source: int = entry(_MAP)
    to: int = entry(_MAP)
    at: int = entry(Integer(0, MOST_CHANNELS))
    kernels: int = entry(Integer(1, MOST_CHANNELS))
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

    groups: int = entry(Integer(1, MOST_CHANNELS))
    weights: int = entry(_WEIGHTS)

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
    weights: int = entry(_WEIGHTS)

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

    source: int = entry(_MAP)
    to: int = entry(_MAP)
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
        return to.pixels * in_vectors(to.channels) * math.prod(self.kernel)
