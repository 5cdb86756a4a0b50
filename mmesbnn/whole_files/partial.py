"""Half-written files: their names, their removal, and why they were not finished."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

#: Errors by which a disk, a quota or a limit is used up, or a disk is broken.
DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, getattr(errno, 'EDQUOT', None))
#: Characters of the wanted name in a partial one, which stays below all limits so.
_KEPT = 20
#: With more files than this, the file system is flushed as a whole, which is faster.
_FEW = 64
#: Bytes that are written to find out whether the disk is full.
_PROBE = 1 << 20

_unfinished: dict[Path, int] = {}


def partial_name(path: Path) -> Path:
    """A new name next to ``path``: a rename is atomic within one file system only."""
    # the process's number shows later ones whether it still writes there
    owner = f'{os.getpid()}-{secrets.token_hex(8)}'
    # bytes that are not text are left out, see speakable()
    kept = path.name[:_KEPT].encode(errors='ignore').decode() or 'x'
    return path.with_name(f'.{kept}.{owner}.part')


@contextlib.contextmanager
def speakable(path: Path) -> Iterator[Path]:
    """Another name of ``path``, in a folder whose name is not text.

    Libraries in C++ and Rust open files by names in UTF-8 only. Linux has a name for
    each open folder; elsewhere, and where there is no need, it is the same one.
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
    """Remove the file or folder ``partial`` when the block ends, if it is there still.

    If a signal interrupts the removal, :func:`remove_unfinished` makes up for it.
    """
    _unfinished[partial] = os.getpid()
    try:
        yield
    finally:
        _remove(partial)


def _remove(partial: Path) -> None:
    # no folder: a link to one is not followed
    if partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    _unfinished.pop(partial, None)


def remove_unfinished() -> None:
    """Remove all that this process has not finished; called at its end, too."""
    for partial, owner in list(_unfinished.items()):
        if owner == os.getpid():  # not in a child process that inherited the table
            _remove(partial)


atexit.register(remove_unfinished)


def flush(path: Path) -> None:
    """Put a file, or a folder and all that is in it, on the disk.

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
    """Put the new name ``path`` on the disk; what can be done after a rename."""
    with contextlib.suppress(OSError):
        _sync(path.parent)


def _sync(path: Path) -> None:
    if os.name != 'posix' and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def _sync_file_system(path: Path) -> bool:
    call = getattr(ctypes.CDLL(None, use_errno=True), 'syncfs', None)
    if call is None:
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        return call(handle) == 0  # the flush of every file reports an error
    finally:
        os.close(handle)


def disk_error(error: Exception, partial: Path, path: Path) -> OSError | None:
    """The reason why ``partial`` was not written, as an error of ``path``.

    Libraries that write files by themselves wrap the error of the disk or lose it, so
    the disk is asked again.

    Args:
        error: What was raised while ``partial`` was written.
        partial: The file or folder.
        path: The name that the user knows.

    Returns:
        None: the disk is not the reason.
    """
    link: BaseException | None = error
    if isinstance(error, OSError) and error.filename and not _within(error.filename, partial):
        return None  # of another file
    while link is not None:
        if isinstance(link, OSError) and link.errno is not None:
            if _within(link.filename, partial):
                # the name is the only thing to change
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
    """Try to make the largest file of ``partial`` longer, which is given up anyway."""
    files = [partial]
    if partial.is_dir():
        inner = [p for p in partial.rglob('*') if p.is_file()]
        files = sorted(inner, key=lambda p: p.stat().st_size)[-1:]
        files.append(partial / 'probe')
    for file in files:
        try:
            with open(file, 'ab', buffering=0) as opened:
                # a limit can cut a write short, the next one fails then
                if opened.write(bytes(_PROBE)) < _PROBE:
                    opened.write(bytes(_PROBE))
                os.fsync(opened.fileno())
        except OSError as error:
            if error.errno in DISK_ERRORS:
                return OSError(error.errno, error.strerror, str(path))
    return None
