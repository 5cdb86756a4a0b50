"""Interface of the kernels for numpy arrays. Sizes are checked here and again in C++."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from .library import NativeError, library

Pair = tuple[int, int]
_LANES = 8


@dataclass(frozen=True)
class Packed:
    """Signs packed as bits, 64 per word: 1 for +1, 0 for -1.

    Attributes:
        words: uint64 ``(N, H, W, groups, ceil(C / groups / 64))``.
        channels: Number of channels ``C``.
    """

    words: np.ndarray
    channels: int

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
    """

    words: np.ndarray
    scales: np.ndarray
    kernel_size: Pair
    channels: int


def _pointer(array: np.ndarray, kind: type) -> ctypes._Pointer[Any]:
    return array.ctypes.data_as(ctypes.POINTER(kind))


def _floats(array: np.ndarray) -> ctypes._Pointer[Any]:
    return _pointer(array, ctypes.c_float)


def _array(name: str, value: np.ndarray, ndim: int) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32:
        kind = getattr(value, 'dtype', type(value).__name__)
        raise NativeError(f'{name} is of {kind}; it must be a float32 array')
    if value.ndim != ndim or 0 in value.shape:
        raise NativeError(
            f'{name} has the shape {value.shape}; it must have {ndim} axes, none of them empty'
        )
    return np.ascontiguousarray(value)


def _raise_for(status: int, what: str) -> None:
    if status:
        reason = 'there is not enough memory' if status == -2 else 'its sizes do not fit'
        raise NativeError(f'{what}: {reason}')


def _check_threads(threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise NativeError(f'threads={threads!r} must be an integer >= 1')
    return threads


def instruction_sets() -> list[str]:
    """Return the names of the instruction sets of this processor, fastest first.

    Raises:
        NativeError: If the kernels are not compiled.
    """
    names = ctypes.create_string_buffer(256)
    _raise_for(library().mmesbnn_instruction_sets(names, len(names)), 'instruction sets')
    return names.value.decode().split(',')


def use_instruction_set(name: str) -> None:
    """Make all kernels use an instruction set. Without a call they use the fastest one.

    Args:
        name: One of :func:`instruction_sets`.

    Raises:
        NativeError: If this processor does not have it.
    """
    if not isinstance(name, str) or library().mmesbnn_use(name.encode()):
        raise NativeError(f'name={name!r} must be one of {instruction_sets()}')


def pack_signs(
    x: np.ndarray,
    *,
    groups: int = 1,
    thresholds: np.ndarray | None = None,
    strict: bool = False,
    threads: int = 1,
) -> Packed | None:
    """Pack signs; a bit is 1 if ``x > threshold`` of its channel.

    Args:
        x: Map, float32 ``(N, C, H, W)``.
        groups: Number of groups of the convolution. Default 1.
        thresholds: float32 ``(C,)``. Default None: 0.
        strict: Whether every entry must be -1 or 1. Default False.
        threads: Number of threads. Default 1.

    Returns:
        Packed signs; None if ``strict`` and an entry is neither -1 nor 1.

    Raises:
        NativeError: If an argument is out of its range.
    """
    x = _array('x', x, 4)
    batch, channels, height, width = x.shape
    if groups < 1 or channels % groups:
        raise NativeError(f'groups={groups} must divide the {channels} channels of x')
    limits = None
    if thresholds is not None:
        limits = _array('thresholds', thresholds, 1)
        if limits.shape != (channels,):
            raise NativeError(
                f'thresholds has the shape {limits.shape}, but x has {channels} channels'
            )
    depth = channels // groups
    words = np.empty((batch, height, width, groups, -(-depth // 64)), np.uint64)
    status = library().mmesbnn_pack_signs(
        _floats(x),
        batch,
        groups,
        depth,
        height * width,
        None if limits is None else _floats(limits),
        strict,
        _check_threads(threads),
        _pointer(words, ctypes.c_uint64),
    )
    if status > 0:
        return None
    _raise_for(status, 'pack_signs')
    return Packed(words, channels)


def unpack_signs(packed: Packed, *, threads: int = 1) -> np.ndarray:
    """Return the signs that :func:`pack_signs` has packed.

    Args:
        packed: Signs of a map ``(N, C, H, W)``.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, C, H, W)`` of -1 and 1.

    Raises:
        NativeError: If an argument is out of its range.
    """
    words = packed.words
    if words.dtype != np.uint64 or words.ndim != 5 or 0 in words.shape:
        raise NativeError(f'words are {words.dtype} {words.shape}; they must be uint64 of 5 axes')
    batch, height, width, groups, count = words.shape
    depth = packed.channels // groups
    if packed.channels != depth * groups or count != -(-depth // 64):
        raise NativeError(f'channels={packed.channels} do not fit {groups} groups of {count} words')
    x = np.empty((batch, packed.channels, height, width), np.float32)
    status = library().mmesbnn_unpack_signs(
        _pointer(np.ascontiguousarray(words), ctypes.c_uint64),
        batch,
        groups,
        depth,
        height * width,
        _check_threads(threads),
        _floats(x),
    )
    _raise_for(status, 'unpack_signs')
    return x


def pack_weights(weight: np.ndarray, *, groups: int = 1) -> PackedWeights | None:
    """Pack effective weights ``-a`` and ``+a``, with one ``a`` per kernel.

    Args:
        weight: float32 ``(C_o, C_i / groups, k_h, k_w)``.
        groups: Number of groups. Default 1.

    Returns:
        Bits and scales; None if a kernel has other values or only zeros.

    Raises:
        NativeError: If an argument is out of its range.
    """
    weight = _array('weight', weight, 4)
    kernels, depth, height, width = weight.shape
    if groups < 1 or kernels % groups:
        raise NativeError(f'groups={groups} must divide the {kernels} kernels of weight')
    per_group, taps = kernels // groups, height * width
    shape = (groups, -(-per_group // _LANES), taps, -(-depth // 64), _LANES)
    words, scales = np.empty(shape, np.uint64), np.empty(kernels, np.float32)
    status = library().mmesbnn_pack_weights(
        _floats(weight),
        groups,
        per_group,
        depth,
        taps,
        _pointer(words, ctypes.c_uint64),
        _floats(scales),
    )
    if status > 0:
        return None
    _raise_for(status, 'pack_weights')
    return PackedWeights(words, scales, (height, width), depth)


def convolve(
    x: Packed,
    weights: PackedWeights,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    pad_value: int = 0,
    threads: int = 1,
) -> np.ndarray:
    """Convolve signs with binary weights: ``y = a * (equal bits - differing bits)``.

    Sums are integers, so only the product with ``a`` is rounded. The result does not
    depend on the instruction set or the number of threads.

    Args:
        x: Packed signs of a map ``(N, C, H, W)``.
        weights: Packed weights with the same number of groups as ``x``.
        stride: Vertical and horizontal stride, in pixels. Default (1, 1).
        padding: Vertical and horizontal padding on each side, in pixels. Default (0, 0).
        dilation: Vertical and horizontal distance of a kernel's taps. Default (1, 1).
        pad_value: Value of padded pixels: -1, 0 or 1. Default 0: they add nothing.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, C_o, H', W')``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    batch, height, width, groups, _ = x.words.shape
    if groups != weights.words.shape[0] or x.channels // groups != weights.channels:
        raise NativeError(
            f'x has {groups} groups of {x.channels // groups} channels, but weights have '
            f'{weights.words.shape[0]} of {weights.channels}'
        )
    if pad_value not in (-1, 0, 1):
        raise NativeError(f'pad_value={pad_value!r} must be one of -1, 0, 1')
    geometry = np.array([*weights.kernel_size, *stride, *padding, *dilation], np.int32)
    if geometry.shape != (8,) or (geometry[2:4] < 1).any() or (geometry[4:6] < 0).any():
        raise NativeError(f'stride={stride}, padding={padding} are out of range')
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip((height, width), *geometry.reshape(4, 2).tolist())
    ]
    if min(sizes) < 1:
        raise NativeError(f'a map of {height}x{width} is smaller than the kernel')
    out = np.empty((batch, len(weights.scales), *sizes), np.float32)
    status = library().mmesbnn_convolve(
        _pointer(x.words, ctypes.c_uint64),
        batch,
        height,
        width,
        groups,
        weights.channels,
        _pointer(weights.words, ctypes.c_uint64),
        len(weights.scales) // groups,
        _pointer(geometry, ctypes.c_int32),
        pad_value,
        _floats(weights.scales),
        *sizes,
        _check_threads(threads),
        _floats(out),
    )
    _raise_for(status, 'convolve')
    return out
