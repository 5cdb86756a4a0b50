"""Time that a cache line takes from one core to another.

Threads of a small network hand over work every ten microseconds, and each reads what the other
wrote. A virtual machine's cores share the last cache or not, as its host likes at the moment.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from .compiling import compiled

SOURCE = Path(__file__).with_name('handover.c')
ROUNDS = 20000


@lru_cache(1)
def _function() -> Any:
    """Compile and load the loop; None where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(SOURCE, Path(folder), ('-pthread',))
    if library is None:
        return None
    library.handover.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long]
    library.handover.restype = ctypes.c_double
    return library.handover


def handover_ns() -> float | None:
    """Measure the nanoseconds that a cache line takes between this process's first two cores.

    Returns:
        None with one core, without a compiler, and on systems other than Linux.
    """
    if not hasattr(os, 'sched_getaffinity'):
        return None
    cores = sorted(os.sched_getaffinity(0))[:2]
    function = _function() if len(cores) == 2 else None
    if function is None:
        return None
    taken = function(*cores, ROUNDS)
    return taken if taken >= 0 else None
