"""Remains of writers that were killed."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

#: What ``partial_name`` gives: ``.NAME.PROCESS-....part``.
_PARTIAL = re.compile(r'\..+\.([0-9]+)-[0-9a-f]+\.part')


def _is_alive(process: int) -> bool:
    """Return whether another process of this number runs."""
    if process == os.getpid():
        return False
    if os.name != 'posix':
        return True  # to ask would be to interrupt it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def remove_leftovers(folder: str | os.PathLike) -> list[Path]:
    """Remove what :func:`~mmesbnn.whole_files.whole_file` left in ``folder``.

    That is, the files of processes that have ended, and of this one, which is writing
    nothing there now: numbers of processes are used again.

    Args:
        folder: The folder, without those in it.

    Returns:
        The files that were removed.
    """
    removed = []
    for path in Path(folder).iterdir():
        match = _PARTIAL.fullmatch(path.name)
        if match and path.is_file() and not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed
