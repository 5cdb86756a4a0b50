"""Writing files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from .partial import disk_error, flush, flush_name, partial_name, removed, speakable
from .swapping import swap

T = TypeVar('T')

#: Times that a folder which changes while it is read is read again.
_READS = 20


def _refuse(number: int, path: Path, text: str | None = None) -> None:
    raise OSError(number, text or os.strerror(number), str(path))


def _status(path: Path) -> os.stat_result | None:
    """None: there is nothing."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _allowed(path: Path, rights: int) -> bool:
    # as open() asks: the effective user, where the system knows it
    effective = os.access in os.supports_effective_ids
    return os.access(path, rights, effective_ids=effective)


@contextlib.contextmanager
def _explained(partial: Path, path: Path) -> Iterator[None]:
    """Let an error of the disk name ``path``, whoever wrote."""
    try:
        yield
    except Exception as error:
        reason = disk_error(error, partial, path)
        if reason is None:
            raise
        raise reason from error


def check_file(path: str | os.PathLike, source: str | os.PathLike | None = None) -> Path:
    """Raise the error that :func:`whole_file` would raise, before the work.

    Args:
        path: The file to write.
        source: The file that the work reads. Default None: it reads none.

    Returns:
        The file that will be replaced: the end of a link.

    Raises:
        OSError: If ``path`` cannot be written, or is ``source``.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    status = _status(target)
    read = None if source is None else _status(Path(source))
    if status and read and os.path.samestat(status, read):
        _refuse(errno.EINVAL, path, 'Would overwrite the file that is read')
    if status is None:
        if not target.parent.is_dir():
            _refuse(errno.ENOENT, path, 'No such folder')
    elif stat.S_ISDIR(status.st_mode):
        _refuse(errno.EISDIR, path)
    elif not stat.S_ISREG(status.st_mode):
        _refuse(errno.EINVAL, path, 'Not a regular file')
    elif not _allowed(target, os.W_OK):
        _refuse(errno.EACCES, path)
    elif _is_standard_stream(status):
        _refuse(errno.EINVAL, path, 'The output of this process goes there')
    if not _allowed(target.parent, os.W_OK | os.X_OK):
        _refuse(errno.EACCES, path)
    return target


def _is_standard_stream(status: os.stat_result) -> bool:
    """Return whether it is the file that ``print`` writes to, as ``/dev/stdout`` can be."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if os.path.samestat(os.fstat(stream.fileno()), status):
                return True
    return False


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, *, durable: bool = True) -> Iterator[Path]:
    """A name to write to, which takes the place of ``path`` when the block ends.

    An empty file of that name is there already. It has no ending by which a writer
    could guess the format. If the block does not end well, the old file is as it was and
    nothing else is left. Of two writers at once, threads or processes, the last one to
    end wins, whole.

    A new file gets the mode of the user's umask, one that is replaced keeps its mode. A
    link stays a link, and the file that it leads to is replaced; other hard links keep
    the old content.

    Args:
        path: The file to write, in a folder that exists.
        durable: Whether the content is on the disk when the block has ended, so that
            not even a power cut leaves a part. Default True.

    Raises:
        OSError: If it cannot be written; names ``path``, also if the writer in the
            block wrapped the error. Folders, devices, pipes and files without the right
            to write are refused before the block.
    """
    path = Path(path)
    target = check_file(path)
    real = partial_name(target)
    with removed(real), speakable(real) as partial, _explained(partial, path):
        mode = _create(partial, target)
        yield partial
        if stat.S_IMODE(partial.stat().st_mode) != mode:
            partial.chmod(mode)
        if durable:
            flush(partial)
        os.replace(partial, target)
        if durable:
            flush_name(target)


def _create(partial: Path, target: Path) -> int:
    """Make the empty file, and return the mode that it shall have."""
    handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    os.close(handle)
    return _writable(partial, _status(target), 0o600)


def _writable(partial: Path, old: os.stat_result | None, needed: int) -> int:
    """Let its owner write, not more people read than may; return the final mode."""
    made = stat.S_IMODE(partial.stat().st_mode)
    mode = made if old is None else stat.S_IMODE(old.st_mode)
    if mode | needed != made:
        partial.chmod(mode | needed)
    return mode


def check_folder(root: str | os.PathLike, *, replace: bool = False) -> Path:
    """Raise the error that :func:`whole_folder` would raise, before the work.

    Returns:
        The folder that will be made or replaced: the end of a link.

    Raises:
        OSError: If ``root`` cannot be written.
    """
    root = Path(root)
    target = Path(os.path.realpath(root))
    status = _status(target)
    if status is not None:
        if not stat.S_ISDIR(status.st_mode):
            _refuse(errno.ENOTDIR, root)
        if not replace and any(target.iterdir()):
            _refuse(errno.EEXIST, root, 'The folder is there and not empty')
        here = Path(os.path.realpath(os.curdir))
        if target == here or target in here.parents:
            _refuse(errno.EBUSY, root, 'The current folder cannot be replaced')
        if os.path.ismount(target):
            _refuse(errno.EBUSY, root, 'A mount point, so name a folder in it')
    above = next(folder for folder in target.parents if folder.exists())
    if not above.is_dir():
        _refuse(errno.ENOTDIR, root)
    if not _allowed(above, os.W_OK | os.X_OK):
        _refuse(errno.EACCES, root)
    return target


@contextlib.contextmanager
def whole_folder(root: str | os.PathLike, *, replace: bool = False) -> Iterator[Path]:
    """A folder to write to, which becomes ``root`` when the block ends.

    If the block does not end well, ``root`` is as it was and nothing else is left. Its
    content is on the disk before it appears. A new folder gets the mode of the user's
    umask, one that is replaced keeps its mode.

    With ``replace``, whoever opens ``root`` finds one whole folder at any time, the old
    one or the new one, where the system can exchange two names at once (Linux, on all
    usual file systems). Elsewhere the name is missing for the time between two renames,
    and a process that is killed in between leaves the old folder next to it, as
    ``.NAME.....part``. Who reads several files, one after the other, takes
    :func:`read_whole`, since the folder can change in between.

    Args:
        root: The folder to write; those above are made. A link stays a link.
        replace: Whether a folder that is there, with all that it holds, is replaced;
            so look at what it holds first. Default False: it must be empty.

    Raises:
        OSError: If it cannot be put there; names the file as it would be in ``root``.
    """
    root = Path(root)
    target = check_folder(root, replace=replace)
    real = partial_name(target)
    with (
        _folders_above(target),
        removed(real),
        speakable(real) as partial,
        _explained(partial, root),
    ):
        partial.mkdir()
        mode = _writable(partial, _status(target), 0o700)
        yield partial
        if stat.S_IMODE(partial.stat().st_mode) != mode:
            partial.chmod(mode)
        flush(partial)
        if replace and target.exists():
            swap(partial, target)  # the old one is what is removed
        else:
            _take_place(partial, target, root)
        flush_name(target)


def _take_place(partial: Path, target: Path, root: Path) -> None:
    try:
        os.rename(partial, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            _refuse(errno.EEXIST, root, 'Another process has written the folder')
        raise


def is_filled(root: str | os.PathLike) -> bool:
    """Return whether the folder is there, with something in it."""
    return os.path.isdir(root) and any(Path(root).iterdir())


@contextlib.contextmanager
def _folders_above(target: Path) -> Iterator[None]:
    """Make the folders above; remove those that were made if the block fails."""
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # another process uses it
            for folder in made:
                folder.rmdir()
        raise


def _identity(root: Path) -> tuple[int, int, int] | None:
    with contextlib.suppress(OSError):
        status = root.stat()
        # a rename sets the time, should the number be used again
        return status.st_dev, status.st_ino, status.st_ctime_ns
    return None


def read_whole(root: str | os.PathLike, read: Callable[[], T]) -> T:
    """Read several files of a folder that may be replaced meanwhile.

    Args:
        root: The folder.
        read: Reads the files; called again if ``root`` was replaced while it ran.

    Returns:
        What ``read`` returned, all of it from one folder.

    Raises:
        Exception: What ``read`` raised while the folder stayed the same.
        OSError: If it was replaced at every one of 20 attempts.
    """
    root = Path(root)
    for _ in range(_READS):
        before = _identity(root)
        try:
            result = read()
        except Exception:
            if _identity(root) == before:
                raise
        else:
            if _identity(root) == before:
                return result
    raise OSError(errno.EAGAIN, 'The folder is replaced again and again', str(root))
