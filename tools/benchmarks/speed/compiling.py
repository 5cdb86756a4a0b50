"""Loops in C that are compiled for this processor."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def compiled(source: Path, folder: Path, flags: Sequence[str] = ()) -> Any:
    """Compile a file and load it; None without a compiler that can.

    Args:
        source: The file in C.
        folder: Folder for the library.
        flags: Flags of the compiler besides those for speed.
    """
    compiler = shutil.which(os.environ.get('CC', 'cc')) or shutil.which('gcc')
    if compiler is None:
        return None
    library = folder / f'{source.stem}.so'
    command = [compiler, '-O3', '-shared', '-fPIC', *flags, str(source), '-o', str(library)]
    # other compilers and processors do not know the second flag
    for tuning in (['-march=native', '-mprefer-vector-width=512'], ['-march=native']):
        if subprocess.run([*command, *tuning], capture_output=True).returncode == 0:
            return ctypes.CDLL(str(library))
    return None
