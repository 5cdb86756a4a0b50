"""Memory of large arrays, which is kept for later ones.

A step of training makes the maps of the step before again. Memory that a process frees goes back to
the system, which clears each page before it lends it once more. That takes some percent of a step.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
import weakref
from collections import deque

import numpy as np

#: Least size of an array whose memory is kept, in bytes.
_LEAST = 2**18
#: Most memory that is lent and kept, in terms of the most that was lent at once lately.
_MOST = 2
#: Number of loans that are called lately; a step of a large network has hundreds.
_LATELY = 4096
#: Bytes over which the beginnings of arrays are spread, in lines of the cache. Memory begins at a
#: page, and lines at the same place of their pages take the same few places of the first cache.
_SPREAD, _LINE = 4096, 64
#: On Unix a forked process would share other memory.
_PRIVATE = dict(flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if hasattr(mmap, 'MAP_PRIVATE') else {}
_HUGE = getattr(mmap, 'MADV_HUGEPAGE', None)


class _Lent(np.ndarray):
    """Array over lent memory. Arrays and tensors that share it hold it; with it the loan ends."""


class _Memory(threading.local):
    """Memory that a thread keeps."""

    def __init__(self) -> None:
        self.release()

    def release(self) -> None:
        """Forget all memory; what is lent now will not be kept."""
        self.kept: list[mmap.mmap] = []
        self.returned: deque[mmap.mmap] = deque()  # loans end in any thread, also in lend()
        self.lent, self.loans, self.peaks = 0, 0, (0, 0)

    def lend(self, size: int) -> np.ndarray:
        """Return ``size`` bytes with any values."""
        self._take_back()
        memory = self._find(size + _SPREAD) or _allocate(size + _SPREAD)
        self.lent += len(memory)
        self._note()
        self._drop()
        begin = self.loans * 5 * _LINE % _SPREAD
        lent = _Lent(size, np.uint8, buffer=memory, offset=begin)
        weakref.finalize(lent, self.returned.append, memory).atexit = False
        return lent

    def _take_back(self) -> None:
        while self.returned:
            self.kept.append(self.returned.popleft())
            self.lent -= len(self.kept[-1])

    def _find(self, size: int) -> mmap.mmap | None:
        """Take the smallest piece that fits; one twice as large would waste half of it.

        The latest one of its size may still be in the cache.
        """
        fits = [(len(one), -at) for at, one in enumerate(self.kept) if size <= len(one) <= 2 * size]
        return self.kept.pop(-min(fits)[1]) if fits else None

    def _note(self) -> None:
        """Note the most that is lent at once, in the latest loans and in those before them."""
        earlier, latest = self.peaks
        self.loans += 1
        if self.loans % _LATELY == 0:
            earlier, latest = latest, 0
        self.peaks = earlier, max(latest, self.lent)

    def _drop(self) -> None:
        """Free the oldest pieces of what is too much, such as those for maps of another size."""
        kept = sum(map(len, self.kept))
        while self.kept and self.lent + kept > _MOST * max(self.peaks):
            kept -= len(self.kept.pop(0))


def _allocate(size: int) -> mmap.mmap:
    try:
        memory = mmap.mmap(-1, size, **_PRIVATE)
    except OSError as error:
        raise MemoryError(f'{size} bytes: {error.strerror}') from error
    if _HUGE is not None:
        with contextlib.suppress(OSError):  # a kernel without large pages
            memory.madvise(_HUGE)
    return memory


_memory = _Memory()


def empty(shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
    """Return a contiguous array with any values, whose memory is kept when nothing holds it.

    What a thread keeps and uses is at most twice what it used at once during its latest thousands
    of arrays.

    Args:
        shape: Shape.
        kind: Kind of the numbers. Default float32.
    """
    size = math.prod(shape) * np.dtype(kind).itemsize
    if size < _LEAST:
        return np.empty(shape, kind)
    return np.ndarray(shape, kind, buffer=_memory.lend(size))


def release_memory() -> None:
    """Free the memory that this thread keeps for arrays of the native kernels."""
    _memory.release()
