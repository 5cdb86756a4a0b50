"""Programs: whole networks that run in the compiled library."""

from __future__ import annotations

import ctypes
from collections import deque
from ctypes import c_char, c_double, c_float, c_int64, c_void_p

import numpy as np

from .arguments import (
    array_of,
    check_shape,
    check_threads,
    check_writeable,
    float_array,
    pointer,
    raise_for,
)
from .library import NativeError, library

#: Size of a cache line in bytes. Arrays begin at a multiple of it.
ALIGNMENT = 64


def aligned(count: int) -> np.ndarray:
    """Make an array of ``count`` zeros, uint8, whose memory begins at a cache line."""
    whole = np.zeros(count + ALIGNMENT, np.uint8)
    start = -whole.ctypes.data % ALIGNMENT
    return whole[start : start + count]


class Engine:
    """Network as a program; any number of threads may run it at once.

    The library checks every number of the program before it runs.

    Args:
        code: The program, int64, in the format of ``mmesbnn/native/src/program.cpp``.
        data: Weights and other constants, uint8.

    Attributes:
        input_shape: Channels, height and width of an image.
        output_shapes: Channels, height and width of each output.
        steps: Number of steps.

    Raises:
        NativeError: If the program is wrong, if ``data`` is not uint8 of one axis, or if there
            is no library.
    """

    def __init__(self, code: np.ndarray, data: np.ndarray) -> None:
        self._program = c_void_p()
        self._library = library()
        code = np.ascontiguousarray(code, np.int64)
        if not isinstance(data, np.ndarray) or data.shape != (0,):  # a network without weights
            data = array_of(np.uint8, 'data', data, 1)
        self._code = code
        self._data = data if data.ctypes.data % ALIGNMENT == 0 else _copied(data)
        wrong = c_int64()
        status = self._library.mmesbnn_program_new(
            pointer(code, c_int64),
            len(code),
            self._data.ctypes.data,
            len(self._data),
            ctypes.byref(wrong),
            ctypes.byref(self._program),
        )
        if wrong.value >= 0:
            raise NativeError(f'the program is wrong at its number {wrong.value}')
        raise_for(status, 'the program')
        sizes = np.zeros(3, np.int64)
        self._library.mmesbnn_program_sizes(self._program, pointer(sizes, c_int64))
        self._workspace_bytes, self.steps, outputs = map(int, sizes)
        shapes = np.zeros((1 + outputs, 3), np.int64)
        self._library.mmesbnn_program_shapes(self._program, pointer(shapes, c_int64))
        first, *others = [(c, h, w) for c, h, w in shapes.tolist()]
        self.input_shape: tuple[int, int, int] = first
        self.output_shapes: list[tuple[int, int, int]] = others
        self._addresses = c_void_p * outputs
        self._idle: deque[c_char] = deque()  # append and pop are atomic

    def __reduce__(self) -> tuple[type[Engine], tuple[np.ndarray, np.ndarray]]:
        return type(self), (self._code, self._data)

    def __del__(self) -> None:
        if self._program:
            self._library.mmesbnn_program_free(self._program)

    def run(
        self, images: np.ndarray, *, threads: int = 1, seconds: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Run the network on one image after the other.

        Results do not depend on the number of threads.

        Args:
            images: float32 ``(N, C, H, W)``.
            threads: Threads that work on an image. Default 1.
            seconds: float64 ``(steps,)``, to which the time of every step is added.
                Default None.

        Returns:
            The outputs, float32 ``(N, C, H, W)``.

        Raises:
            NativeError: If a shape does not fit, or there is not enough memory.
        """
        images = float_array('images', images, 4)
        if images.shape[1:] != self.input_shape:
            raise NativeError(
                f'images has the shape {images.shape}, the network takes (N, '
                f'{", ".join(map(str, self.input_shape))})'
            )
        if seconds is not None:
            self._check_seconds(seconds)
        outputs = [np.empty((len(images), *shape), np.float32) for shape in self.output_shapes]
        addresses = [ctypes.addressof(c_float.from_buffer(output.data)) for output in outputs]
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = self._workspace()
        status = self._library.mmesbnn_program_run(
            self._program,
            ctypes.byref(workspace),
            self._workspace_bytes,
            pointer(images, c_float),
            len(images),
            self._addresses(*addresses),
            check_threads(threads),
            None if seconds is None else pointer(seconds, c_double),
        )
        self._idle.append(workspace)
        raise_for(status, 'run')
        return outputs

    def _check_seconds(self, seconds: np.ndarray) -> None:
        check_shape('seconds', seconds, (self.steps,))
        if array_of(np.float64, 'seconds', seconds, 1) is not seconds:
            raise NativeError('seconds must be contiguous')
        check_writeable('seconds', seconds)

    def _workspace(self) -> c_char:
        try:
            return c_char.from_buffer(aligned(self._workspace_bytes).data)
        except MemoryError:
            raise_for(-2, 'run')
            raise


def _copied(data: np.ndarray) -> np.ndarray:
    copy = aligned(len(data))
    copy[:] = data
    return copy
