"""Interface of the kernels for numpy arrays. Sizes are checked here and again in C++."""

from __future__ import annotations

import ctypes

import numpy as np

from .arguments import (
    Pair,
    check_layout,
    check_pad_value,
    check_threads,
    empty_map,
    float_array,
    float_map,
    floats,
    pointer,
    raise_for,
    window,
)
from .library import NativeError, library
from .memory import empty
from .packed import LANES, Packed, PackedWeights, check_packed

#: Sums of so many products of signs fit into 16 bits.
MOST_TERMS = 2**15 - 1


def instruction_sets() -> list[str]:
    """Return the names of the instruction sets of this processor, fastest first.

    Raises:
        NativeError: If the kernels are not compiled.
    """
    names = ctypes.create_string_buffer(256)
    raise_for(library().mmesbnn_instruction_sets(names, len(names)), 'instruction sets')
    return names.value.decode().split(',')


def use_instruction_set(name: str) -> None:
    """Make all kernels use an instruction set. Without a call they use the fastest one.

    The weights of a network are packed for the instruction set in use when it is loaded. With
    another one it gives the same results, and may be slower.

    Args:
        name: One of :func:`instruction_sets`.

    Raises:
        NativeError: If this processor does not have it.
    """
    if not isinstance(name, str) or library().mmesbnn_use(name.encode()):
        raise NativeError(f'name={name!r} must be one of {instruction_sets()}')


def _thresholds(values: np.ndarray | None, count: int, name: str, what: str) -> np.ndarray | None:
    if values is None:
        return None
    values = float_array('thresholds', values, 1)
    if values.shape != (count,):
        raise NativeError(f'thresholds has the shape {values.shape}, but {name} has {count} {what}')
    return values


def pack_signs(
    x: np.ndarray,
    *,
    groups: int = 1,
    thresholds: np.ndarray | None = None,
    strict: bool = False,
    with_means: bool = False,
    threads: int = 1,
) -> Packed | None:
    """Pack signs; a bit is 1 if ``x > threshold`` of its channel.

    Args:
        x: Map, float32 ``(N, C, H, W)``, also channels last in memory.
        groups: Number of groups of the convolution. Default 1.
        thresholds: float32 ``(C,)``. Default None: 0.
        strict: Whether every entry must be -1 or 1, or with thresholds not NaN, and the thresholds
            finite. Default False.
        with_means: Whether means over pixels are computed, not of a map that lies channels last.
            Default False.
        threads: Number of threads. Default 1.

    Returns:
        Packed signs; None if ``strict`` and a number is another one.

    Raises:
        NativeError: If an argument is out of its range.
    """
    x, channels_last = float_map('x', x)
    batch, channels, height, width = x.shape
    if groups < 1 or channels % groups:
        raise NativeError(f'groups={groups} must divide the {channels} channels of x')
    limits = _thresholds(thresholds, channels, 'x', 'channels')
    depth = channels // groups
    if with_means and channels_last:
        raise NativeError('with_means=True is not for maps with channels last in memory')
    words = empty((batch, height, width, groups, -(-depth // 64)), np.uint64)
    means = np.empty((batch, channels), np.float32) if with_means else None
    status = library().mmesbnn_pack_signs(
        floats(x),
        batch,
        groups,
        depth,
        height * width,
        channels_last,
        None if limits is None else floats(limits),
        strict,
        check_threads(threads),
        pointer(words, ctypes.c_uint64),
        None if means is None else floats(means),
    )
    if status > 0:
        return None
    raise_for(status, 'pack_signs')
    return Packed(words, channels, means)


def pack_weights(
    weight: np.ndarray,
    *,
    groups: int = 1,
    thresholds: np.ndarray | None = None,
    scaled: bool = False,
    threads: int = 1,
) -> PackedWeights | None:
    """Pack effective weights ``-a`` and ``+a``, with one ``a`` per kernel, or signs of latent ones.

    Args:
        weight: float32 ``(C_o, C_i / groups, k_h, k_w)``.
        groups: Number of groups. Default 1.
        thresholds: float32 ``(C_o,)``. With them ``weight`` is latent: any numbers, of which
            ``weight > threshold`` is packed, with scales of 1. Default None: it is effective.
        scaled: Whether the scales of a latent weight are ``mean|w|`` of the kernels. Default False.
        threads: Number of threads. Default 1.

    Returns:
        Bits and scales; None if a kernel has other values or only zeros; with thresholds if a
        weight is NaN, or a threshold or scale is not finite, or a scale is 0.

    Raises:
        NativeError: If an argument is out of its range.
    """
    weight = float_array('weight', weight, 4)
    kernels, depth, height, width = weight.shape
    if groups < 1 or kernels % groups:
        raise NativeError(f'groups={groups} must divide the {kernels} kernels of weight')
    if scaled and thresholds is None:
        raise NativeError('scaled=True is for latent weights, with thresholds')
    limits = _thresholds(thresholds, kernels, 'weight', 'kernels')
    per_group, taps = kernels // groups, height * width
    shape = (groups, -(-per_group // LANES), taps, -(-depth // 64), LANES)
    words, scales = np.empty(shape, np.uint64), np.empty(kernels, np.float32)
    status = library().mmesbnn_pack_weights(
        floats(weight),
        groups,
        per_group,
        depth,
        taps,
        None if limits is None else floats(limits),
        scaled,
        check_threads(threads),
        pointer(words, ctypes.c_uint64),
        floats(scales),
    )
    if status > 0:
        return None
    raise_for(status, 'pack_weights')
    return PackedWeights(words, scales, (height, width), depth)


def convolve(
    x: Packed,
    weights: PackedWeights,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    pad_value: int = 0,
    channels_last: bool = False,
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
        channels_last: Whether the channels of the result lie side by side in memory. Default
            False.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, C_o, H', W')``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    steps = stride, padding, dilation
    return _convolve(np.float32, x, weights, steps, pad_value, channels_last, threads)


def convolve_sums(
    x: Packed,
    weights: PackedWeights,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    pad_value: int = 0,
    channels_last: bool = False,
    threads: int = 1,
) -> np.ndarray:
    """Compute the sums ``equal bits - differing bits`` of :func:`convolve`.

    Args: as :func:`convolve`.

    Returns:
        int16 ``(N, C_o, H', W')``. :func:`scale_sums` makes of it what :func:`convolve` returns.

    Raises:
        NativeError: As :func:`convolve`, or if a sum has more than 32767 terms.
    """
    check_packed('weights', weights, PackedWeights)
    terms = weights.channels * weights.kernel_size[0] * weights.kernel_size[1]
    if terms > MOST_TERMS:
        raise NativeError(f'a sum has {terms} terms; sums of 16 bits have at most {MOST_TERMS}')
    steps = stride, padding, dilation
    return _convolve(np.int16, x, weights, steps, pad_value, channels_last, threads)


def _convolve(
    kind: type,
    x: Packed,
    weights: PackedWeights,
    steps: tuple[Pair, Pair, Pair],
    pad_value: int,
    channels_last: bool,
    threads: int,
) -> np.ndarray:
    """Compute the results, or sums of int16; ``steps`` are stride, padding and dilation."""
    check_packed('x', x, Packed)
    check_packed('weights', weights, PackedWeights)
    batch, height, width, groups, _ = x.words.shape
    if groups != weights.words.shape[0] or x.channels // groups != weights.channels:
        raise NativeError(
            f'x has {groups} groups of {x.channels // groups} channels, but weights have '
            f'{weights.words.shape[0]} of {weights.channels}'
        )
    geometry, sizes = window((height, width), weights.kernel_size, *steps)
    out = empty_map(batch, len(weights.scales), sizes, channels_last=channels_last, kind=kind)
    scaled = kind is np.float32
    status = library().mmesbnn_convolve(
        pointer(x.words, ctypes.c_uint64),
        batch,
        height,
        width,
        groups,
        weights.channels,
        pointer(weights.words, ctypes.c_uint64),
        len(weights.scales) // groups,
        pointer(geometry, ctypes.c_int32),
        check_pad_value(pad_value),
        floats(weights.scales) if scaled else None,
        *sizes,
        channels_last,
        check_threads(threads),
        floats(out) if scaled else None,
        None if scaled else pointer(out, ctypes.c_int16),
    )
    raise_for(status, 'convolve')
    return out


def scale_sums(sums: np.ndarray, scales: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Compute the result of :func:`convolve` from its sums: ``y = a * sums``.

    Args:
        sums: int16 ``(N, C_o, H', W')``, in any of both layouts.
        scales: float32 ``(C_o,)``, ``a`` of each kernel.
        threads: Number of threads. Default 1.

    Returns:
        float32 map of the same shape and layout.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    last = isinstance(sums, np.ndarray) and not sums.flags.c_contiguous
    check_layout('sums', sums, last, np.int16)
    batch, channels, height, width = sums.shape
    scales = float_array('scales', scales, 1)
    if len(scales) != channels:
        raise NativeError(f'scales has {len(scales)} entries for {channels} channels')
    out = empty_map(batch, channels, (height, width), channels_last=last)
    pixels = height * width
    status = library().mmesbnn_scale_sums(
        pointer(sums, ctypes.c_int16),
        *((batch * pixels, channels, 1) if last else (batch, channels, pixels)),
        floats(scales),
        check_threads(threads),
        floats(out),
    )
    raise_for(status, 'scale_sums')
    return out
