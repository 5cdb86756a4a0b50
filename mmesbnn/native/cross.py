"""Training steps of sums with depthwise convolutions of tokens whose windows are crosses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .arguments import check_shape, check_threads, float_array, floats, raise_for
from .library import NativeError, library
from .memory import empty


class CrossGradients(NamedTuple):
    """Gradients of :func:`add_cross`; that of ``base`` is that of the result.

    Attributes:
        x: float32 ``(N, H, W, C)``.
        taps: float32 ``(4 r + 1, C)``.
        shift: float32 ``(C,)``.
    """

    x: np.ndarray
    taps: np.ndarray
    shift: np.ndarray


def _checked(x: np.ndarray, taps: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return both arrays, contiguous, and the reach of the taps."""
    x, taps = float_array('x', x, 4), float_array('taps', taps, 2)
    if taps.shape[1] != x.shape[3] or len(taps) % 4 != 1:
        raise NativeError(
            f'taps has the shape {taps.shape}; it must be (4 r + 1, {x.shape[3]}) for a reach r'
        )
    return x, taps, len(taps) // 4


def _shaped(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    value = float_array(name, value, len(shape))
    check_shape(name, value, shape)
    return value


def add_cross(
    base: np.ndarray, x: np.ndarray, taps: np.ndarray, shift: np.ndarray, *, threads: int = 1
) -> np.ndarray:
    """Compute ``base + shift + conv(x)`` with a depthwise convolution whose windows are crosses.

    For each channel, with ``d`` from 1 to the reach ``r``, and zeros around the map::

        conv(x)[h, w] = t_0 x[h, w] + sum_d (
            t_up x[h - d, w] + t_down x[h + d, w] + t_left x[h, w - d] + t_right x[h, w + d]
        )

    Sums are made in this order in float32. The result depends on the instruction set by their
    rounding.

    Args:
        base: float32 ``(N, H, W, C)``.
        x: float32 ``(N, H, W, C)``.
        taps: float32 ``(4 r + 1, C)``: ``t_0``, then for each ``d`` up, down, left and right.
        shift: float32 ``(C,)``.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, H, W, C)``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    x, taps, reach = _checked(x, taps)
    base, shift = _shaped('base', base, x.shape), _shaped('shift', shift, x.shape[3:])
    out = empty(x.shape)
    status = library().mmesbnn_add_cross(
        *(floats(base), floats(x), *x.shape, reach, floats(taps), floats(shift)),
        *(check_threads(threads), floats(out)),
    )
    raise_for(status, 'add_cross')
    return out


def cross_gradients(
    grad: np.ndarray, x: np.ndarray, taps: np.ndarray, *, threads: int = 1
) -> CrossGradients:
    """Compute the gradients of :func:`add_cross`.

    Args:
        grad: Gradient of the result, float32 ``(N, H, W, C)``.
        x: Operand of the call.
        taps: Operand of the call.
        threads: Number of threads. Default 1.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    x, taps, reach = _checked(x, taps)
    grad = _shaped('grad', grad, x.shape)
    found = CrossGradients(empty(x.shape), np.empty_like(taps), np.empty_like(taps[0]))
    status = library().mmesbnn_cross_gradients(
        *(floats(grad), floats(x), *x.shape, reach, floats(taps), check_threads(threads)),
        *map(floats, found),
    )
    raise_for(status, 'cross_gradients')
    return found
