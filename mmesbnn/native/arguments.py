"""Arguments of the C interface: arrays as pointers, and checks."""

from __future__ import annotations

import ctypes
import functools
import math
import numbers
import sys
from typing import Any

import numpy as np

from .library import NativeError
from .memory import empty

Pair = tuple[int, int]

_ORDER = '<' if sys.byteorder == 'little' else '>'


def pointer(array: np.ndarray, kind: Any) -> Any:
    """Return the address of an array's entries as an argument of a call.

    The caller keeps the array while it is used.

    ``data_as`` would leave a cycle of objects, for which Python's garbage collector runs. A cast
    takes four times as long as to ask for the array's buffer, and a step has thousands of pointers.
    """
    rows = array if array.ndim != 4 or array.flags.c_contiguous else array.transpose(0, 2, 3, 1)
    flags = rows.flags
    if flags.c_contiguous and flags.writeable and rows.size:
        return ctypes.byref(kind.from_buffer(rows))
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


def floats(array: np.ndarray) -> Any:
    """Return the address of float32 entries."""
    return pointer(array, ctypes.c_float)


def float_array(name: str, value: np.ndarray, ndim: int) -> np.ndarray:
    """Return a contiguous float32 array, or raise a :class:`NativeError` about ``name``."""
    return array_of(np.float32, name, value, ndim)


def array_of(kind: type, name: str, value: np.ndarray, ndim: int) -> np.ndarray:
    """Return a contiguous array of numbers of a kind; else raise as :func:`float_array`."""
    if not isinstance(value, np.ndarray) or value.dtype != kind:
        found = getattr(value, 'dtype', type(value).__name__)
        raise NativeError(f'{name} is of {found}; it must be a {np.dtype(kind)} array')
    if value.ndim != ndim or 0 in value.shape:
        raise NativeError(
            f'{name} has the shape {value.shape}; it must have {ndim} axes, none of them empty'
        )
    return np.ascontiguousarray(value)


def check_shape(name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise a :class:`NativeError` about ``name`` unless it is an array of this shape."""
    if getattr(value, 'shape', None) != shape:
        raise NativeError(f'{name} has the shape {np.shape(value)}; it must be {shape}')


def float_map(name: str, value: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return a float32 map ``(N, C, H, W)``, and whether the channels of a pixel lie side by side.

    Else the pixels of a channel do.

    Raises:
        NativeError: If ``value`` is no such map; the message names ``name``.
    """
    is_map = isinstance(value, np.ndarray) and value.ndim == 4
    rows = value.transpose(0, 2, 3, 1) if is_map else value
    if rows is not value and rows.flags.c_contiguous and not value.flags.c_contiguous:
        float_array(name, rows, 4)
        return value, True
    return float_array(name, value, 4), False


def check_layout(
    name: str, value: np.ndarray, channels_last: bool, kind: type = np.float32
) -> None:
    """Raise a :class:`NativeError` about ``name`` unless it is a map of this layout.

    Args:
        name: Name of the argument.
        value: Map ``(N, C, H, W)``.
        channels_last: Whether the channels of a pixel lie side by side in memory.
        kind: Kind of its numbers.
    """
    last = channels_last and isinstance(value, np.ndarray) and value.ndim == 4
    rows = value.transpose(0, 2, 3, 1) if last else value
    array_of(kind, name, rows, 4)
    if not rows.flags.c_contiguous:
        raise NativeError(f'{name} has another layout in memory')


def check_writeable(name: str, value: np.ndarray) -> None:
    """Raise a :class:`NativeError` about ``name`` if an array cannot be written into."""
    if not value.flags.writeable:
        raise NativeError(f'{name} is overwritten, but it is read-only')


def check_clip(clip: float, least: float = 0.0) -> None:
    """Raise a :class:`NativeError` unless ``clip`` is a number >= ``least`` and not infinite."""
    if not isinstance(clip, numbers.Real) or not least <= clip < math.inf:
        raise NativeError(f'clip={clip!r} must be a number >= {least}')


def check_operand(name: str, value: np.ndarray | None, shape: tuple[int, ...]) -> None:
    """Raise a :class:`NativeError` about ``name`` unless it is None or contiguous float32."""
    if value is None:
        return
    float_array(name, value, len(shape))
    if not value.flags.c_contiguous:
        raise NativeError(f'{name} must be contiguous')
    check_shape(name, value, shape)


def empty_map(
    batch: int, channels: int, size: Pair, *, channels_last: bool, kind: type = np.float32
) -> np.ndarray:
    """Return a map ``(N, C, H, W)`` of ``kind`` in one of both layouts, with any values."""
    if channels_last:
        return empty((batch, *size, channels), kind).transpose(0, 3, 1, 2)
    return empty((batch, channels, *size), kind)


def raise_for(status: int, what: str) -> None:
    """Raise a :class:`NativeError` if a function of the C interface has failed."""
    if status:
        reason = 'there is not enough memory' if status == -2 else 'its sizes do not fit'
        raise NativeError(f'{what}: {reason}')


def check_threads(threads: int) -> int:
    """Return ``threads`` if it is an integer >= 1, else raise a :class:`NativeError`."""
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise NativeError(f'threads={threads!r} must be an integer >= 1')
    return threads


def check_pad_value(pad_value: int) -> int:
    """Return ``pad_value`` if it is -1, 0 or 1, else raise a :class:`NativeError`."""
    if pad_value not in (-1, 0, 1):
        raise NativeError(f'pad_value={pad_value!r} must be one of -1, 0, 1')
    return pad_value


def check_pair(name: str, pair: Pair, least: int) -> None:
    """Raise a :class:`NativeError` about ``name`` unless it is a tuple of two numbers >= least."""
    if not isinstance(pair, tuple) or len(pair) != 2 or min(pair) < least:
        raise NativeError(f'{name}={pair!r} must be two integers of at least {least}')


@functools.lru_cache(maxsize=1024)
def window(
    size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[np.ndarray, Pair]:
    """Return the geometry of a convolution for the C interface, and height and width of its map.

    Raises:
        NativeError: If an argument is out of its range.
    """
    check_pair('kernel_size', kernel_size, 1)
    check_pair('stride', stride, 1)
    check_pair('padding', padding, 0)
    check_pair('dilation', dilation, 1)
    geometry = np.array([*kernel_size, *stride, *padding, *dilation], np.int32)
    height, width = (
        (entries + 2 * p - d * (k - 1) - 1) // s + 1
        for entries, k, s, p, d in zip(size, *geometry.reshape(4, 2).tolist())
    )
    if min(height, width) < 1:
        raise NativeError(f'a map of {size[0]}x{size[1]} is smaller than the kernel')
    return geometry, (height, width)


class _Shared:
    """Entries of another library's tensor, as numpy asks for them."""

    __slots__ = ('__array_interface__', 'owner')
    __array_interface__: dict[str, Any]
    owner: Any


def shared_array(owner: Any) -> Any:
    """Return an array that shares the memory of a tensor of another library, to be read only."""
    return np.from_dlpack(owner)


def shared_entries(owner: Any, address: int, shape: tuple[int, ...], kind: str) -> Any:
    """Return :func:`shared_array` of contiguous entries, in a third of the time.

    Args:
        owner: Object that has the memory. The array holds it.
        address: Address of the first entry.
        shape: Shape, without a 0.
        kind: Kind of the entries, as numpy writes it, such as ``'f4'``.
    """
    shared = _Shared()
    shared.owner = owner
    shared.__array_interface__ = dict(
        version=3, typestr=_ORDER + kind, data=(address, False), shape=shape
    )
    return np.asarray(shared)
