"""Gradients of a convolution of packed operands, by tables of signed sums.

A product of a real number and a sign is an addition. Four numbers have 16 sums with all signs, so
a table of these does four multiplications and additions by one addition.
"""

from __future__ import annotations

import ctypes

import numpy as np

from .arguments import (
    Pair,
    check_clip,
    check_pad_value,
    check_pair,
    check_shape,
    check_threads,
    check_writeable,
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
from .packed import Packed, PackedWeights, check_packed


def input_gradient(
    grad: np.ndarray,
    weights: PackedWeights,
    *,
    size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    threads: int = 1,
) -> np.ndarray:
    """Compute the gradient of :func:`convolve` with respect to its input.

    ``dx[n, c, q] = sum_{o, t} w[o, c, t] grad[n, o, p]`` with ``p stride + t dilation - padding
    = q``. Sums are rounded to float32 as they grow. The result does not depend on the instruction
    set or the number of threads.

    Args:
        grad: Gradient of the result, float32 ``(N, C_o, H', W')``, also channels last in memory.
        weights: Packed weights ``w``.
        size: Height and width of the input, in pixels.
        stride: As ``convolve``'s. Default (1, 1).
        padding: As ``convolve``'s. Default (0, 0).
        dilation: As ``convolve``'s. Default (1, 1).
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, C_i, H, W)``, in the layout of ``grad``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    grad, channels_last = float_map('grad', grad)
    check_packed('weights', weights, PackedWeights)
    check_pair('size', size, 1)
    geometry, sizes = window(size, weights.kernel_size, stride, padding, dilation)
    batch, groups = len(grad), len(weights.words)
    check_shape('grad', grad, (batch, len(weights.scales), *sizes))
    out = empty_map(batch, groups * weights.channels, size, channels_last=channels_last)
    status = library().mmesbnn_input_gradient(
        floats(grad),
        batch,
        *size,
        groups,
        weights.channels,
        pointer(weights.words, ctypes.c_uint64),
        len(weights.scales) // groups,
        pointer(geometry, ctypes.c_int32),
        floats(weights.scales),
        *sizes,
        channels_last,
        check_threads(threads),
        floats(out),
    )
    raise_for(status, 'input_gradient')
    return out


def latent_gradient(
    grad: np.ndarray,
    weight: np.ndarray,
    limits: np.ndarray,
    *,
    clip: float,
    centred: bool = False,
    threads: int = 1,
) -> np.ndarray:
    """Compute the gradient of latent weights ``w`` from that of their signs ``sign(w - m)``.

    It is ``grad`` where ``|w - m| <= clip``, else 0. With ``centred`` the mean of that over a
    kernel is subtracted, because ``m`` is the mean of the kernel.

    Args:
        grad: Gradient of the signs, float32 ``(C_o, C_i, k_h, k_w)``; the result overwrites it.
        weight: ``w``, float32 of the same shape.
        limits: ``m`` of each kernel, float32 ``(C_o,)``.
        clip: Half width of the window.
        centred: Whether ``m`` is the mean of a kernel. Default False.
        threads: Number of threads. Default 1.

    Returns:
        ``grad``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    weight = float_array('weight', weight, 4)
    check_shape('grad', grad, weight.shape)
    if float_array('grad', grad, 4) is not grad:
        raise NativeError('grad must be contiguous')
    check_writeable('grad', grad)
    check_clip(clip)
    check_shape('limits', float_array('limits', limits, 1), weight.shape[:1])
    status = library().mmesbnn_latent_gradient(
        floats(grad),
        floats(weight),
        floats(np.ascontiguousarray(limits)),
        len(weight),
        weight[0].size,
        clip,
        centred,
        check_threads(threads),
        floats(grad),
    )
    raise_for(status, 'latent_gradient')
    return grad


def weight_gradient(
    grad: np.ndarray,
    x: Packed,
    *,
    kernel_size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    pad_value: int = 0,
    threads: int = 1,
) -> np.ndarray:
    """Compute the gradient of :func:`convolve` with respect to its weight.

    ``dw[o, c, t] = sum_{n, p} grad[n, o, p] x[n, c, p stride + t dilation - padding]``. Sums are
    rounded to float32 as they grow. The result does not depend on the instruction set or the
    number of threads.

    Args:
        grad: Gradient of the result, float32 ``(N, C_o, H', W')``, also channels last in memory.
        x: Packed signs of a map ``(N, C_i, H, W)``.
        kernel_size: Height and width of a kernel, in pixels.
        stride: As ``convolve``'s. Default (1, 1).
        padding: As ``convolve``'s. Default (0, 0).
        dilation: As ``convolve``'s. Default (1, 1).
        pad_value: As ``convolve``'s. Default 0.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(C_o, C_i / groups, k_h, k_w)``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    grad, channels_last = float_map('grad', grad)
    check_packed('x', x, Packed)
    batch, height, width, groups, _ = x.words.shape
    geometry, sizes = window((height, width), kernel_size, stride, padding, dilation)
    kernels, depth = grad.shape[1], x.channels // groups
    check_shape('grad', grad, (batch, kernels, *sizes))
    if kernels % groups:
        raise NativeError(f'the {groups} groups of x must divide the {kernels} kernels of grad')
    out = empty((kernels, depth, *kernel_size))
    status = library().mmesbnn_weight_gradient(
        floats(grad),
        pointer(x.words, ctypes.c_uint64),
        batch,
        height,
        width,
        groups,
        depth,
        kernels // groups,
        pointer(geometry, ctypes.c_int32),
        check_pad_value(pad_value),
        *sizes,
        channels_last,
        check_threads(threads),
        floats(out),
    )
    raise_for(status, 'weight_gradient')
    return out
