"""Partial files: their names, their removal, and the reasons of failed writes."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

#: Errors of a full disk, a used quota or limit, or a broken disk.
DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, getattr(errno, 'EDQUOT', None))
#: Number of characters of the final name in a partial name, so that it stays short.
_KEPT = 20
#: Number of files above which the whole file system is flushed, which is faster.
_FEW = 64
#: Number of bytes that are written to test if the disk is full.
_PROBE = 1 << 20

_unfinished: dict[Path, int] = {}


def computer() -> str:
    """Return eight characters for this computer, made of its name in the network."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def partial_name(path: Path) -> Path:
    """Return a new name next to ``path``; a rename is atomic within one file system only."""
    # with computer and number of the process, later processes can see if it still writes
    owner = f'{os.getpid()}-{computer()}-{secrets.token_hex(8)}'
    # bytes that are not text are removed, see speakable()
    kept = path.name[:_KEPT].encode(errors='ignore').decode() or 'x'
    return path.with_name(f'.{kept}.{owner}.part')


@contextlib.contextmanager
def speakable(path: Path) -> Iterator[Path]:
    """Yield a name of ``path`` in UTF-8, if the name of its folder is not text.

    Libraries in C++ and Rust need names in UTF-8. Linux has such a name for each open
    folder. On other systems, and if it is not needed, the name does not change.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        if Path('/proc/self/fd').is_dir():
            handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                yield Path(f'/proc/self/fd/{handle}', path.name)
            finally:
                os.close(handle)
            return
    yield path


@contextlib.contextmanager
def removed(partial: Path) -> Iterator[None]:
    """Remove the file or folder ``partial`` when the block ends, if it still exists.

    If a signal interrupts the removal, :func:`remove_unfinished` removes it later.
    """
    _unfinished[partial] = os.getpid()
    try:
        yield
    finally:
        _remove(partial)


def _remove(partial: Path) -> None:
    # a link to a folder is not followed
    if partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    _unfinished.pop(partial, None)


def remove_unfinished() -> None:
    """Remove all partial files of this process. It is also called at the end of the process."""
    for partial, owner in list(_unfinished.items()):
        if owner == os.getpid():  # a child process inherits the table
            _remove(partial)


atexit.register(remove_unfinished)


def flush(path: Path) -> None:
    """Flush a file, or a folder with its content, to the disk.

    Raises:
        OSError: If the disk is full or broken.
    """
    if not path.is_dir():
        _sync(path)
        return
    paths = [path, *path.rglob('*')]
    if len(paths) > _FEW and _sync_file_system(path):
        return
    for inner in reversed(paths):
        if not inner.is_symlink() and (inner.is_dir() or inner.is_file()):
            _sync(inner)


def flush_name(path: Path) -> None:
    """Flush the new name ``path`` to the disk, after a rename."""
    with contextlib.suppress(OSError):
        _sync(path.parent)


def _sync(path: Path) -> None:
    if os.name != 'posix' and path.is_dir():
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # the umask lets not even the owner read
        os.sync()
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def _sync_file_system(path: Path) -> bool:
    call = getattr(ctypes.CDLL(None, use_errno=True), 'syncfs', None)
    if call is None or not os.access(path, os.R_OK):
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        return call(handle) == 0  # the flush of every file reports an error
    finally:
        os.close(handle)


def disk_error(error: Exception, partial: Path, path: Path) -> OSError | None:
    """Return the disk's error that prevented writing ``partial``, as an error of ``path``.

    Libraries that write files themselves wrap or lose the error of the disk. The disk is
    therefore tested again.

    Args:
        error: Error that was raised while ``partial`` was written.
        partial: Partial file or folder.
        path: Name that the user knows.

    Returns:
        Error, or None if the disk is not the reason.
    """
    link: BaseException | None = error
    if isinstance(error, OSError) and error.filename and not _within(error.filename, partial):
        return None  # the error concerns another file
    while link is not None:
        if isinstance(link, OSError) and link.errno is not None:
            if _within(link.filename, partial):
                # only the name changes
                return OSError(link.errno, link.strerror, _renamed(link, partial, path))
            if link.filename is None and link.errno in DISK_ERRORS:
                return OSError(link.errno, link.strerror, str(path))
        link = link.__cause__ or link.__context__
    if isinstance(error, OSError) and error.errno is not None:
        return None
    return _probe(partial, path)


def _within(name: object, partial: Path) -> bool:
    if not isinstance(name, (str, bytes, os.PathLike)):
        return False
    named = Path(os.fsdecode(name))
    return named == partial or partial in named.parents


def _renamed(error: OSError, partial: Path, path: Path) -> str:
    return str(path / Path(os.fsdecode(error.filename)).relative_to(partial))


def _probe(partial: Path, path: Path) -> OSError | None:
    """Try to extend the largest file of ``partial``, which will be removed."""
    files = [partial]
    if partial.is_dir():
        inner = [p for p in partial.rglob('*') if p.is_file()]
        files = sorted(inner, key=lambda p: p.stat().st_size)[-1:]
        files.append(partial / 'probe')
    for file in files:
        try:
            with open(file, 'ab', buffering=0) as opened:
                # a limit can shorten a write; the next write fails then
                if opened.write(bytes(_PROBE)) < _PROBE:
                    opened.write(bytes(_PROBE))
                os.fsync(opened.fileno())
        except OSError as error:
            if error.errno in DISK_ERRORS:
                return OSError(error.errno, error.strerror, str(path))
    return None
