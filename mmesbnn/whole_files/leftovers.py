"""Removal of partial files of killed processes."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from .partial import computer

#: Pattern of ``partial_name``: ``.NAME.PROCESS-COMPUTER-....part``.
_PARTIAL = re.compile(r'\..+\.([0-9]+)-([0-9a-f]{8})-[0-9a-f]+\.part')


def _is_alive(process: int) -> bool:
    """Return True if another process with this number runs."""
    if process == os.getpid():
        return False
    if os.name != 'posix':
        return True  # on this system asking would interrupt the process
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the partial files of :func:`~mmesbnn.whole_files.whole_file` in ``folder``.

    These are files of processes of this computer that have ended. Files with the number of
    this process are removed, too, because this process writes nothing there now and numbers
    are reused. Files of other computers stay, because a folder can be shared and their
    processes are not visible here.

    Args:
        folder: Folder to clean, without subfolders.

    Returns:
        Removed files.
    """
    removed = []
    for path in Path(folder).iterdir():
        match = _PARTIAL.fullmatch(path.name)
        ours = match is not None and match[2] == computer()
        if match and ours and path.is_file() and not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed
