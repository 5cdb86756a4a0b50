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
        self.pieces: dict[int, list[mmap.mmap]] = {}  # by size; the size used last is the last one
        self.returned: deque[mmap.mmap] = deque()  # loans end in any thread, also in lend()
        self.lent, self.kept, self.loans, self.peaks = 0, 0, 0, (0, 0)

    def lend(self, size: int) -> np.ndarray:
        """Return ``size`` bytes with any values."""
        self._take_back()
        memory = self._take(_rounded(size + _SPREAD))
        self._note()
        self._drop()
        begin = self.loans * 5 * _LINE % _SPREAD
        lent = _Lent(size, np.uint8, buffer=memory, offset=begin)
        weakref.finalize(lent, self.returned.append, memory).atexit = False
        return lent

    def _take_back(self) -> None:
        while self.returned:
            memory = self.returned.popleft()
            size = len(memory)
            self.pieces[size] = [*self.pieces.pop(size, ()), memory]
            self.kept, self.lent = self.kept + size, self.lent - size

    def _take(self, size: int) -> mmap.mmap:
        """Take the latest piece of a size, which may still be in a cache, or a new one."""
        if self.pieces.get(size):
            memory = self.pieces[size].pop()
            self.kept -= size
        else:
            memory = self._allocate(size)
        self.lent += size
        return memory

    def _allocate(self, size: int) -> mmap.mmap:
        try:
            return _allocate(size)
        except MemoryError:  # what is kept may be what a limit of the process leaves no room for
            self.pieces.clear()
            self.kept = 0
            return _allocate(size)

    def _note(self) -> None:
        """Note the most that is lent at once, in the latest loans and in those before them."""
        earlier, latest = self.peaks
        self.loans += 1
        if self.loans % _LATELY == 0:
            earlier, latest = latest, 0
        self.peaks = earlier, max(latest, self.lent)

    def _drop(self) -> None:
        """Free pieces of the sizes not used for longest while there is too much."""
        while self.kept and self.lent + self.kept > _MOST * max(self.peaks):
            size = next(iter(self.pieces))
            if self.pieces[size]:
                self.pieces[size].pop(0)
                self.kept -= size
            else:
                del self.pieces[size]


def _rounded(size: int) -> int:
    """Round up by a thirtieth at most, so that there are few sizes."""
    step = 1 << size.bit_length() - 6
    return -(-size // step) * step


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
