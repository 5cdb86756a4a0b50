"""Opening of regular files only: a pipe would block, and a device has no end."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

#: Windows has no blocking pipes, and changes line ends without this flag.
_FLAGS = os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_BINARY', 0)
_KINDS = {
    stat.S_IFDIR: 'a folder',
    stat.S_IFIFO: 'a named pipe',
    stat.S_IFCHR: 'a device',
    stat.S_IFBLK: 'a device',
    stat.S_IFSOCK: 'a socket',
}


def open_plain(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes, or a link to one.

    Args:
        path: File to open.

    Raises:
        OSError: If it cannot be opened, or is a folder, a pipe, a device or a socket.
    """
    if '\0' in os.fsdecode(path):
        raise OSError(errno.EINVAL, 'The name holds a zero byte', os.fspath(path))
    # this flag opens a pipe without a writer at once; the check reads the opened file
    descriptor = os.open(path, _FLAGS)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), 'something else')
            raise OSError(0, f'{kind}, not a file', os.fspath(path))
        return os.fdopen(descriptor, 'rb')
    except BaseException:
        os.close(descriptor)
        raise
