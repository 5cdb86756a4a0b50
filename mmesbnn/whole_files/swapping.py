"""Exchange of the names of two folders with the same parent."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

#: Constants of Linux: paths are relative to the current folder; names are exchanged.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
#: Errors of a system or a file system that does not support the exchange.
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM)


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders at once.

    Returns:
        True if the names were exchanged; False if the system or the file system does not
        support it.

    Raises:
        OSError: If these folders cannot be exchanged.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), 'renameat2', None)
    if call is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if not call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def _set_aside(folder: Path, aside: Path) -> None:
    """Rename a folder, or copy it if it cannot be renamed, as in a lower layer of a container."""
    try:
        os.rename(folder, aside)
        return
    except OSError:
        pass
    except BaseException:  # a signal, before or after the rename
        if aside.exists() and not folder.exists():
            os.rename(aside, folder)
        raise
    try:
        shutil.copytree(folder, aside, symlinks=True)
    except BaseException:  # also a signal
        shutil.rmtree(aside, ignore_errors=True)
        raise
    try:
        shutil.rmtree(folder)
    except BaseException:  # a part of it may be gone; the copy stays if it cannot be put back
        shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(aside)
        raise


def swap(new: Path, old: Path) -> None:
    """Exchange the names of two folders, in one step if possible.

    Otherwise they are renamed one after the other. If the second rename fails, the first is
    undone.

    Raises:
        OSError: If it fails; the folders have not changed then.
    """
    if exchange(new, old):
        return
    aside = new.with_name(f'{new.name}.old')
    _set_aside(old, aside)
    try:
        os.rename(new, old)
        os.rename(aside, new)
    except BaseException:  # also a signal
        if aside.exists():
            _undo(aside, new, old)
        raise


def _undo(aside: Path, new: Path, old: Path) -> None:
    if not old.exists():
        os.rename(aside, old)
    elif not new.exists():  # the second rename was done, so the caller removes the old folder
        os.rename(aside, new)
    else:  # of another process, which replaced the old folder, too
        shutil.rmtree(aside, ignore_errors=True)
