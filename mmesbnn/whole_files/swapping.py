"""Two folders of one parent that exchange their names."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

#: From Linux's headers: paths are relative to the current folder, names are exchanged.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
#: What a system or a file system says that cannot do it.
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM)


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders at once.

    Returns:
        False: the system or the file system cannot; nothing was done.

    Raises:
        OSError: If it could, but not with these.
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


def swap(new: Path, old: Path) -> None:
    """Exchange the names of two folders, at once if that can be done.

    Otherwise one after the other; if the second rename fails, the first is undone.

    Raises:
        OSError: If it cannot be done; both are as they were then.
    """
    if exchange(new, old):
        return
    aside = new.with_name(f'{new.name}.old')
    try:
        # copies where a name cannot be moved, as in a lower layer of a container
        shutil.move(old, aside)
        os.rename(new, old)
    except BaseException:  # a signal, too
        if aside.exists() and not old.exists():
            shutil.move(aside, old)
        raise
    os.rename(aside, new)
