"""The machine's limit: binary multiplications per second on one core."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import numpy as np

from mmesbnn.native.engine import aligned

from .compiling import compiled

SOURCE = Path(__file__).with_name('xor_popcount.c')


def _compiled_rate(folder: Path, seconds: float) -> float | None:
    """Measure binary multiplications per second in C; None without a compiler."""
    loops = compiled(SOURCE, folder)
    if loops is None:
        return None
    words = np.random.default_rng(0).integers(0, 2**63, (5, 512), np.uint64)
    # the xor of each two vectors of eight words, then of all pairs so far
    pairs = np.bitwise_xor.reduce(words.reshape(5, 32, 2, 8), axis=2)
    prefixes = np.bitwise_xor.accumulate(pairs, axis=1)
    arrays = [_aligned(x) for x in (words[0], words[1:], prefixes[0], prefixes[1:])]
    rates = [_loop_rate(loops.plain, arrays[:2], seconds)]
    if hasattr(loops, 'prefix'):
        rates.append(_loop_rate(loops.prefix, arrays, seconds))
    if hasattr(loops, 'table'):
        tables = [_aligned(x) for x in (words[0], words[1:] & 0x0F0F0F0F0F0F0F0F, _tables())]
        rates.append(_loop_rate(loops.table, tables, seconds))
    return max(rates)


def _tables() -> np.ndarray:
    """Numbers of differing bits: of the halves of each byte, and any four bits."""
    bytes_ = np.arange(256, dtype=np.uint8)
    halves = np.stack([bytes_ & 15, bytes_ >> 4], 1)
    return np.bitwise_count(halves[:, :, None] ^ np.arange(16, dtype=np.uint8))


def _aligned(array: np.ndarray) -> np.ndarray:
    """Copy an array to memory that begins at a cache line."""
    copy = aligned(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


def _loop_rate(function: Any, arrays: list[np.ndarray], seconds: float) -> float:
    """Measure the multiplications per second of a loop of :data:`SOURCE`."""
    function.argtypes = [*[ctypes.c_void_p] * len(arrays), ctypes.c_long]
    function.restype = ctypes.c_uint64
    pointers = [array.ctypes.data for array in arrays]
    repeats, best = 20000, 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        function(*pointers, repeats)
        best = max(best, repeats * 4 * 512 * 64 / (time.perf_counter() - begin))
    return best


def _numpy_rate(seconds: float) -> float:
    """Measure the same with numpy's popcount, a lower bound of the machine's rate."""
    words = np.random.default_rng(0).integers(0, 2**63, (2, 2048), np.uint64)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(100):
            np.bitwise_count(words[0] ^ words[1]).sum()
        best = max(best, 100 * 2048 * 64 / (time.perf_counter() - begin))
    return best


def machine_limit(folder: Path, seconds: float) -> tuple[float, str]:
    """Return binary multiplications per second on one core, and how they were measured.

    Args:
        folder: Folder for the compiled library.
        seconds: Time of each loop.
    """
    rate = _compiled_rate(folder, seconds)
    if rate is not None:
        return rate, 'the fastest of the C loops compiled here, data in the first cache'
    return _numpy_rate(seconds), 'numpy.bitwise_count, a lower bound'
