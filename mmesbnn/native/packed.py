"""Signs and weights packed as bits, as the C interface takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arguments import Pair, array_of, check_operand, check_pair, check_shape
from .library import NativeError

#: Kernels whose words lie side by side.
LANES = 8


@dataclass(frozen=True)
class Packed:
    """Signs packed as bits, 64 per word: 1 for +1, 0 for -1.

    Attributes:
        words: uint64 ``(N, H, W, groups, ceil(C / groups / 64))``.
        channels: Number of channels ``C``.
        means: Means over pixels of the numbers that have these signs, float32 ``(N, C)``; None if
            they were not asked for.

    Raises:
        NativeError: If ``words`` is another array, or its shape does not fit ``channels``.
    """

    words: np.ndarray
    channels: int
    means: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_words(self.words)
        groups = self.groups
        if self.channels < 1 or self.channels % groups:
            raise NativeError(f'channels={self.channels} must be a multiple of {groups} groups')
        check_shape(
            'words', self.words, (*self.words.shape[:4], _words_of(self.channels // groups))
        )

    @property
    def groups(self) -> int:
        """Number of groups that the channels are packed in."""
        return self.words.shape[3]


@dataclass(frozen=True)
class PackedWeights:
    """Weights ``-a`` and ``+a`` per kernel, packed as bits.

    Attributes:
        words: uint64 ``(groups, blocks, taps, words, 8)``; the last axis is eight kernels.
        scales: float32 ``(C_o,)``, ``a`` of each kernel.
        kernel_size: Height and width of a kernel.
        channels: Input channels of a group.

    Raises:
        NativeError: If an array is another one, or its shape does not fit the other attributes.
    """

    words: np.ndarray
    scales: np.ndarray
    kernel_size: Pair
    channels: int

    def __post_init__(self) -> None:
        _check_words(self.words)
        check_operand('scales', self.scales, np.shape(self.scales)[:1])
        check_pair('kernel_size', self.kernel_size, 1)
        groups, (height, width) = len(self.words), self.kernel_size
        if len(self.scales) % groups:
            raise NativeError(f'scales has {len(self.scales)} entries for {groups} groups')
        blocks = -(-len(self.scales) // groups // LANES)
        shape = (groups, blocks, height * width, _words_of(self.channels), LANES)
        check_shape('words', self.words, shape)


def _words_of(channels: int) -> int:
    return -(-channels // 64)


def _check_words(words: np.ndarray) -> None:
    array_of(np.uint64, 'words', words, 5)
    if not words.flags.c_contiguous:
        raise NativeError('words must be contiguous')


def check_packed(name: str, value: Packed | PackedWeights, kind: type) -> None:
    """Raise a :class:`NativeError` about ``name`` unless ``value`` is of a kind of this module."""
    if not isinstance(value, kind):
        raise NativeError(f'{name} is of {type(value).__name__}; it must be {kind.__name__}')
