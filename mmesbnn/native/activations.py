"""Gradients of signs and PReLUs."""

from __future__ import annotations

import numpy as np

from .arguments import (
    check_clip,
    check_layout,
    check_operand,
    check_shape,
    check_threads,
    check_writeable,
    float_array,
    float_map,
    floats,
    raise_for,
)
from .library import NativeError, library
from .memory import empty

#: Functions that stand for the derivative of a sign, by their numbers in the C interface.
SURROGATES = {'window': 0, 'triangle': 1}
#: Least ``clip`` of :func:`elastic_values`. Half of it is exact.
LEAST_CLIP = 1e-30


def surrogate_number(surrogate: str) -> int:
    """Return the number of a function of ``SURROGATES``, or raise a :class:`NativeError`."""
    if surrogate not in SURROGATES:
        raise NativeError(f'surrogate={surrogate!r} must be one of {sorted(SURROGATES)}')
    return SURROGATES[surrogate]


def sign_gradient(
    grad: np.ndarray,
    x: np.ndarray,
    shift: np.ndarray,
    *,
    surrogate: str,
    clip: float = 1.0,
    more: np.ndarray | None = None,
    of_means: np.ndarray | None = None,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gradients of ``sign(x + shift)`` that stand for the true ones.

    ``of_x = grad d(x + shift) + more + of_means / (H W)``, with ``d(v) = 1`` where ``|v| <= clip``
    and else 0 (``'window'``), or ``d(v) = max(0, 2 - 2|v|)`` (``'triangle'``).

    Args:
        grad: Gradient of the signs, float32 ``(N, C, H, W)``; the gradient of ``x`` overwrites it.
        x: float32 ``(N, C, H, W)``. Both may lie channels last in memory.
        shift: float32 ``(C,)``.
        surrogate: One of ``SURROGATES``.
        clip: Half width of the window. Default 1.
        more: Gradient of ``x`` from elsewhere, of its shape, not channels last in memory. Default
            None: 0.
        of_means: Gradient of the means of ``x`` over pixels, float32 ``(N, C)``, for maps that are
            not channels last in memory. Default None: 0.
        threads: Number of threads. Default 1.

    Returns:
        Gradient of ``x``, and of ``shift``, which is its sum without ``more`` and ``of_means``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    number = surrogate_number(surrogate)
    x, last = float_map('x', x)
    check_shape('grad', grad, x.shape)
    check_layout('grad', grad, last)
    check_writeable('grad', grad)
    check_clip(clip)
    check_operand('shift', shift, x.shape[1:2])
    check_operand('more', more, x.shape)
    check_operand('of_means', of_means, x.shape[:2])
    batch, channels, height, width = x.shape
    of_shift, numbers = np.empty_like(shift), (number, clip, check_threads(threads))
    operands, results = (floats(grad), floats(x)), (floats(grad), floats(of_shift))
    if last:
        if more is not None or of_means is not None:
            raise NativeError('more and of_means are not for maps with channels last in memory')
        status = library().mmesbnn_sign_gradient_tokens(
            *operands, batch, height * width, 1, channels, floats(shift), *numbers, *results
        )
    else:
        status = library().mmesbnn_sign_gradient(
            *(*operands, *(None if one is None else floats(one) for one in (more, of_means))),
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


def elastic_values(x: np.ndarray, clip: float, *, threads: int = 1) -> np.ndarray:
    """Compute ``clip`` where ``x > clip / 2``, else 0; NaN stays NaN.

    Args:
        x: Contiguous float32 array.
        clip: Positive number of float32.
        threads: Number of threads. Default 1.

    Returns:
        float32 array of ``x``'s shape.

    Raises:
        NativeError: If an argument is out of its range.
    """
    check_operand('x', x, np.shape(x))
    check_clip(clip, LEAST_CLIP)
    out = empty(x.shape)
    status = library().mmesbnn_elastic_values(
        floats(x), x.size, clip, check_threads(threads), floats(out)
    )
    raise_for(status, 'elastic_values')
    return out


def elastic_gradients(
    grad: np.ndarray, x: np.ndarray, clip: float, *, threads: int = 1
) -> tuple[np.ndarray, float]:
    """Compute the gradients that stand for those of :func:`elastic_values`.

    With ``r = x / clip`` they are ``grad`` where ``0 <= r <= 1``, else 0, and the sum of ``grad
    (round(r) - r)`` where ``0 <= r <= 1``, and of ``grad`` where ``r > 1``.

    Args:
        grad: Gradient of the result, contiguous float32 array.
        x: float32 array of the same shape.
        clip: Positive number of float32.
        threads: Number of threads. Default 1.

    Returns:
        Gradients of ``x`` and ``clip``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    check_operand('x', x, np.shape(x))
    check_operand('grad', grad, x.shape)
    check_clip(clip, LEAST_CLIP)
    of_x, of_clip = empty(x.shape), np.empty(1, np.float32)
    status = library().mmesbnn_elastic_gradients(
        *(floats(grad), floats(x), x.size, clip, check_threads(threads)),
        *(floats(of_x), floats(of_clip)),
    )
    raise_for(status, 'elastic_gradients')
    return of_x, float(of_clip[0])
