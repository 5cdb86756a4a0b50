"""Training steps of poolings, with the results of torch's."""

from __future__ import annotations

import ctypes

import numpy as np

from .arguments import Pair, check_operand, check_threads, float_array, floats, pointer, raise_for
from .library import NativeError, library
from .memory import empty

#: A place in a window is a byte.
LARGEST_WINDOW = 15


def _halved(x: np.ndarray) -> tuple[int, ...]:
    """Return the shape of the means of 2x2 pixels of a map."""
    *others, height, width = x.shape
    if height % 2 or width % 2:
        raise NativeError(f'x is a map of {height}x{width} pixels; both must be even')
    return (*others, height // 2, width // 2)


def average_pool(x: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Compute the means of 2x2 pixels, ``((a + b) + c) + d`` times 0.25.

    Args:
        x: float32 ``(N, C, H, W)``, ``H`` and ``W`` even.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, C, H / 2, W / 2)``.

    Raises:
        NativeError: If sizes do not fit, or an argument is out of its range.
    """
    x = float_array('x', x, 4)
    batch, channels, height, width = x.shape
    out = empty(_halved(x))
    status = library().mmesbnn_average_pool(
        floats(x), batch * channels, height, width, check_threads(threads), floats(out)
    )
    raise_for(status, 'average_pool')
    return out


def average_pool_gradient(grad: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Compute the gradient of :func:`average_pool`: a quarter of ``grad`` for each pixel.

    Args:
        grad: Gradient of the result, float32 ``(N, C, H, W)``.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, C, 2 H, 2 W)``.

    Raises:
        NativeError: If an argument is out of its range.
    """
    grad = float_array('grad', grad, 4)
    batch, channels, height, width = grad.shape
    of_x = empty((batch, channels, 2 * height, 2 * width))
    status = library().mmesbnn_average_pool_gradient(
        floats(grad), batch * channels, *of_x.shape[2:], check_threads(threads), floats(of_x)
    )
    raise_for(status, 'average_pool_gradient')
    return of_x


def average_activated(x: np.ndarray, slope: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Compute :func:`average_pool` of ``max(x, 0) + slope min(x, 0)``, which is not stored.

    Args:
        x: float32 ``(N, C, H, W)``, ``H`` and ``W`` even.
        slope: float32 ``(C,)``.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, C, H / 2, W / 2)``.

    Raises:
        NativeError: If sizes do not fit, or an argument is out of its range.
    """
    x = float_array('x', x, 4)
    out = empty(_halved(x))
    check_operand('slope', slope, x.shape[1:2])
    status = library().mmesbnn_average_activated(
        floats(x), *x.shape, floats(slope), check_threads(threads), floats(out)
    )
    raise_for(status, 'average_activated')
    return out


def average_activated_gradients(
    grad: np.ndarray, x: np.ndarray, slope: np.ndarray, *, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gradients of :func:`average_activated`.

    Args:
        grad: Gradient of the result, float32 ``(N, C, H / 2, W / 2)``.
        x: float32 ``(N, C, H, W)``, ``H`` and ``W`` even.
        slope: float32 ``(C,)``.
        threads: Number of threads. Default 1.

    Returns:
        Gradients of ``x`` and ``slope``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    x, grad = float_array('x', x, 4), float_array('grad', grad, 4)
    check_operand('grad', grad, _halved(x))
    check_operand('slope', slope, x.shape[1:2])
    of_x, of_slope = empty(x.shape), np.empty_like(slope)
    status = library().mmesbnn_average_activated_gradients(
        *(floats(grad), floats(x), *x.shape, floats(slope), check_threads(threads)),
        *(floats(of_x), floats(of_slope)),
    )
    raise_for(status, 'average_activated_gradients')
    return of_x, of_slope


def average_neighbours(x: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Compute the means over the last axis, each as a sum in float32 from the left.

    Args:
        x: float32 ``(N, L, C, r)``.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, L, C)``.

    Raises:
        NativeError: If an argument is out of its range.
    """
    x = float_array('x', x, 4)
    out = empty(x.shape[:-1])
    status = library().mmesbnn_average_neighbours(
        floats(x), out.size, x.shape[-1], check_threads(threads), floats(out)
    )
    raise_for(status, 'average_neighbours')
    return out


def average_neighbours_gradient(grad: np.ndarray, window: int, *, threads: int = 1) -> np.ndarray:
    """Compute the gradient of :func:`average_neighbours`: ``grad / window`` for each entry.

    Args:
        grad: Gradient of the result, float32 ``(N, L, C)``.
        window: ``r``, entries that a mean was made of.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, L, C, r)``.

    Raises:
        NativeError: If an argument is out of its range.
    """
    grad = float_array('grad', grad, 3)
    if window < 1:
        raise NativeError(f'window={window} must be >= 1')
    of_x = empty((*grad.shape, window))
    status = library().mmesbnn_average_neighbours_gradient(
        floats(grad), grad.size, window, check_threads(threads), floats(of_x)
    )
    raise_for(status, 'average_neighbours_gradient')
    return of_x


def _windows(size: Pair, kernel: int, stride: int, padding: int) -> Pair:
    """Return the height and width of the result of a max-pool."""
    if not 1 <= kernel <= LARGEST_WINDOW or stride < 1 or not 0 <= 2 * padding <= kernel:
        raise NativeError(
            f'kernel={kernel}, stride={stride}, padding={padding} must be 1 to {LARGEST_WINDOW}, '
            '>= 1, and 0 to half of the kernel'
        )
    height, width = ((entries + 2 * padding - kernel) // stride + 1 for entries in size)
    if min(height, width) < 1:
        raise NativeError(f'a map of {size[0]}x{size[1]} is smaller than kernel={kernel}')
    return height, width


def max_pool(
    x: np.ndarray, *, kernel: int, stride: int, padding: int, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Find the largest pixel of square windows. A NaN is larger than any number.

    Args:
        x: float32 ``(N, C, H, W)``.
        kernel: Height and width of a window, 1 to 15.
        stride: Distance of windows in pixels.
        padding: Pixels added on each side, which are never the largest. At most half of ``kernel``.
        threads: Number of threads. Default 1.

    Returns:
        Largest pixels, float32 ``(N, C, H', W')``, and their places in the windows,
        ``kernel row + column``, uint8 of the same shape. Of equal pixels it is the first one.

    Raises:
        NativeError: If sizes do not fit, or an argument is out of its range.
    """
    x = float_array('x', x, 4)
    batch, channels, *size = x.shape
    height, width = _windows((size[0], size[1]), kernel, stride, padding)
    out = empty((batch, channels, height, width))
    places = empty(out.shape, np.uint8)
    sizes = batch * channels, *size, kernel, stride, padding, height, width
    status = library().mmesbnn_max_pool(
        floats(x), *sizes, check_threads(threads), floats(out), pointer(places, ctypes.c_uint8)
    )
    raise_for(status, 'max_pool')
    return out, places


def max_pool_gradient(
    grad: np.ndarray,
    places: np.ndarray,
    *,
    size: Pair,
    kernel: int,
    stride: int,
    padding: int,
    threads: int = 1,
) -> np.ndarray:
    """Compute the gradient of :func:`max_pool`: each largest pixel gets that of its window.

    Args:
        grad: Gradient of the result, float32 ``(N, C, H', W')``.
        places: Places that it returned.
        size: Height and width of ``x``, in pixels.
        kernel: As ``max_pool``'s.
        stride: As ``max_pool``'s.
        padding: As ``max_pool``'s.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, C, H, W)``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    grad, (height, width) = float_array('grad', grad, 4), _windows(size, kernel, stride, padding)
    batch, channels = grad.shape[:2]
    if grad.shape[2:] != (height, width) or places.shape != grad.shape:
        raise NativeError(
            f'grad has the shape {grad.shape} and places {places.shape}; they must be '
            f'{(batch, channels, height, width)}'
        )
    if places.dtype != np.uint8 or not places.flags.c_contiguous:
        raise NativeError('places must be those that max_pool returned')
    of_x = empty((batch, channels, *size))
    sizes = batch * channels, *size, kernel, stride, padding, height, width
    status = library().mmesbnn_max_pool_gradient(
        floats(grad), pointer(places, ctypes.c_uint8), *sizes, check_threads(threads), floats(of_x)
    )
    raise_for(status, 'max_pool_gradient')
    return of_x
