"""Results of many inputs: their names, and checks of them before the work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .writing import Name, check_file, check_unread

#: Largest number of bytes in the name of a file.
_LONGEST = 255


def result_path(folder: Path, stem: str, end: str) -> Path:
    """Return the path of a result; a stem that is too long for a file system is cut.

    Args:
        folder: Folder of the result.
        stem: Start of its name.
        end: Rest of its name, such as ``'_x4.png'``.
    """
    stem = stem[:_LONGEST]
    while len(os.fsencode(stem)) > _LONGEST - len(os.fsencode(end)):
        stem = stem[:-1]
    return folder / f'{stem}{end}'


def check_results(paths: Iterable[Path], sources: Iterable[Name | None]) -> None:
    """Raise the error of writing files to existing folders, before the work.

    Args:
        paths: Files to write. Their folders may be missing.
        sources: Files that the work reads, as in :func:`~mmesbnn.whole_files.check_unread`.

    Raises:
        OSError: If one of ``paths`` cannot be written, or is a file that is read.
    """
    paths = list(paths)
    check_unread(paths, sources)
    for path in paths:
        if path.parent.exists():
            check_file(path)
