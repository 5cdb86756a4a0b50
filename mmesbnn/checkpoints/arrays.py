"""NumPy's arrays, scalars and dtypes in pickles, made from checked bytes.

NumPy's own functions trust a pickle. An object dtype would use bytes of the file as pointers.
A wrong offset or length would read beyond the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .limits import CheckpointError
from .unpickler import Name, Pending

_KINDS = (*('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8'), *('f2', 'f4', 'f8', 'c8', 'c16'))
#: Class of arrays. A pickle may name it but not call it.
_NDARRAY = Name('numpy.ndarray')
_MOST_DIMENSIONS = 32


class _Dtype(Pending):
    """Dtype whose byte order comes later in the pickle."""

    def __init__(self, kind: Any, align: Any = False, copy: Any = False) -> None:
        if kind not in _KINDS:
            raise CheckpointError(f'holds numpy values of dtype {kind!r}')
        self.dtype = np.dtype(kind)

    def build(self, state: Any) -> np.dtype:
        plain = (None, None, None, -1, -1, 0)
        if type(state) is not tuple or len(state) != 8 or state[2:] != plain:
            raise CheckpointError('holds a numpy dtype that is not a plain number')
        order = state[1]
        if state[0] not in (3, 4) or order not in ('<', '>', '|', '='):
            raise CheckpointError('holds a numpy dtype of unknown byte order')
        return self.dtype if order == '|' else self.dtype.newbyteorder(order)


class _Array(Pending):
    """Array whose shape and bytes come later in the pickle."""

    def __init__(self, cls: Any, shape: Any, kind: Any) -> None:
        if cls is not _NDARRAY or shape != (0,) or kind not in (b'b', 'b'):
            raise CheckpointError('holds a numpy array that is not a plain array')

    def build(self, state: Any) -> np.ndarray:
        if type(state) is not tuple or len(state) != 5 or state[0] != 1:
            raise CheckpointError('holds a numpy array of an unknown form')
        _, shape, dtype, is_fortran, data = state
        if not is_shape(shape, _MOST_DIMENSIONS):
            raise CheckpointError('holds a numpy array with a wrong shape')
        if type(is_fortran) not in (bool, int):
            raise CheckpointError('holds a numpy array of unknown order')
        values = _values(dtype, data, math.prod(shape))
        return values.reshape(shape, order='F' if is_fortran else 'C')


def are_sizes(sizes: Any, most: int = 64) -> bool:
    """Return whether ``sizes`` is a tuple of at most ``most`` numbers of 63 bits."""
    return (
        isinstance(sizes, tuple)
        and len(sizes) <= most
        and all(type(size) is int and 0 <= size < 2**63 for size in sizes)
    )


def is_shape(shape: Any, most: int = 64) -> bool:
    """Return whether ``shape`` is a tuple of sizes that a tensor can have.

    Strides are products of sizes, also of those beside a 0, and torch raises an error where one
    has more than 63 bits.
    """
    return are_sizes(shape, most) and math.prod(size for size in shape if size) < 2**63


def _values(dtype: Any, data: Any, count: int) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or type(data) is not bytes:
        raise CheckpointError('holds numpy values without a dtype or bytes')
    if len(data) != count * dtype.itemsize:
        raise CheckpointError(f'holds {len(data)} bytes for {count} numpy values of {dtype}')
    values = np.frombuffer(bytearray(data), dtype)  # a bytearray, to be writable
    return values.astype(dtype.newbyteorder('='), copy=False)  # as numpy does


def _scalar(dtype: Any, data: Any) -> np.generic:
    return _values(dtype, data, 1)[0]


def _names() -> dict[str, Name]:
    functions: dict[str, Callable[..., Any]] = {'_reconstruct': _Array, 'scalar': _scalar}
    # numpy 2 moved them; files of both versions exist
    paths = {
        f'numpy.{core}.multiarray.{name}': function
        for core in ('core', '_core')
        for name, function in functions.items()
    }
    calls = {**paths, 'numpy.dtype': _Dtype}
    names = {path: Name(path, function) for path, function in calls.items()}
    return {**names, _NDARRAY.path: _NDARRAY}


#: Names of numpy that a pickle may hold.
NAMES = _names()
