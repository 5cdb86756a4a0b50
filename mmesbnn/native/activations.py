"""Gradients of signs and PReLUs."""

from __future__ import annotations

import numpy as np

from .arguments import (
    check_layout,
    check_operand,
    check_shape,
    check_threads,
    float_array,
    float_map,
    floats,
    raise_for,
)
from .library import NativeError, library
from .memory import empty

#: Functions that stand for the derivative of a sign, by their numbers in the C interface.
SURROGATES = {'window': 0, 'triangle': 1}


def sign_gradient(
    grad: np.ndarray,
    x: np.ndarray,
    shift: np.ndarray,
    *,
    surrogate: str,
    clip: float = 1.0,
    more: np.ndarray | None = None,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gradients of ``sign(x + shift)`` that stand for the true ones.

    ``of_x = grad d(x + shift) + more``, with ``d(v) = 1`` where ``|v| <= clip`` and else 0
    (``'window'``), or ``d(v) = max(0, 2 - 2|v|)`` (``'triangle'``).

    Args:
        grad: Gradient of the signs, float32 ``(N, C, H, W)``; the gradient of ``x`` overwrites it.
        x: float32 ``(N, C, H, W)``. Both may lie channels last in memory.
        shift: float32 ``(C,)``.
        surrogate: One of ``SURROGATES``.
        clip: Half width of the window. Default 1.
        more: Gradient of ``x`` from elsewhere, of its shape, not channels last in memory. Default
            None: 0.
        threads: Number of threads. Default 1.

    Returns:
        Gradient of ``x``, and of ``shift``, which is its sum without ``more``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    if surrogate not in SURROGATES:
        raise NativeError(f'surrogate={surrogate!r} must be one of {sorted(SURROGATES)}')
    x, last = float_map('x', x)
    check_shape('grad', grad, x.shape)
    check_layout('grad', grad, last)
    check_operand('shift', shift, x.shape[1:2])
    check_operand('more', more, x.shape)
    batch, channels, height, width = x.shape
    of_shift, numbers = np.empty_like(shift), (SURROGATES[surrogate], clip, check_threads(threads))
    operands, results = (floats(grad), floats(x)), (floats(grad), floats(of_shift))
    if last:
        if more is not None:
            raise NativeError('more is not for maps with channels last in memory')
        status = library().mmesbnn_sign_gradient_tokens(
            *operands, batch * height * width, channels, floats(shift), *numbers, *results
        )
    else:
        status = library().mmesbnn_sign_gradient(
            *(*operands, None if more is None else floats(more)),
            *(batch, channels, height * width, floats(shift), *numbers, *results),
        )
    raise_for(status, 'sign_gradient')
    return grad, of_shift


def prelu_gradients(
    grad: np.ndarray, x: np.ndarray, slope: np.ndarray, *, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gradients of ``max(x, 0) + slope min(x, 0)``.

    Args:
        grad: Gradient of the result, float32 ``(N, C, H, W)``.
        x: float32 ``(N, C, H, W)``.
        slope: float32 ``(C,)``.
        threads: Number of threads. Default 1.

    Returns:
        Gradients of ``x`` and ``slope``. That of ``x`` is ``slope grad`` at 0, as torch's.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    x, grad = float_array('x', x, 4), float_array('grad', grad, 4)
    check_operand('grad', grad, x.shape)
    check_operand('slope', slope, x.shape[1:2])
    of_x, of_slope = empty(x.shape), np.empty_like(slope)
    batch, channels, height, width = x.shape
    status = library().mmesbnn_prelu_gradients(
        floats(grad),
        floats(x),
        batch,
        channels,
        height * width,
        floats(slope),
        check_threads(threads),
        floats(of_x),
        floats(of_slope),
    )
    raise_for(status, 'prelu_gradients')
    return of_x, of_slope
