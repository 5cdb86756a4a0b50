"""Writers of files and folders that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from .partial import disk_error, flush, flush_name, partial_name, removed, speakable
from .swapping import swap

T = TypeVar('T')
#: Name of a file or folder.
Name = str | os.PathLike[str]

#: Number of attempts to read a folder that changes while it is read.
_READS = 100


def _refuse(number: int, path: Path, text: str | None = None) -> None:
    raise OSError(number, text or os.strerror(number), str(path))


def _status(path: Path) -> os.stat_result | None:
    """Return the status of ``path``, None if it does not exist."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _real(path: Path) -> Path:
    """Return the path at the end of links."""
    if '\0' in str(path):
        _refuse(errno.EINVAL, path, 'The name holds a zero byte')
    return Path(os.path.realpath(path))


def _end_of(path: Path) -> tuple[Path, os.stat_result | None]:
    """Return the path at the end of links, and the status of what is there; None if nothing is.

    A pipe behind ``/dev/stdout`` or ``/dev/fd/3`` is there, though its real path does not exist.
    """
    target = _real(path)
    return target, _status(target) or (path.stat() if path.exists() else None)


def _allowed(path: Path, rights: int) -> bool:
    # open() checks the rights of the effective user, if the system has one
    effective = os.access in os.supports_effective_ids
    return os.access(path, rights, effective_ids=effective)


@contextlib.contextmanager
def _explained(partial: Path, path: Path) -> Iterator[None]:
    """Turn an error of the disk, by any writer, into one that names ``path``."""
    try:
        yield
    except Exception as error:
        reason = disk_error(error, partial, path)
        if reason is None:
            raise
        raise reason from error


def _number(path: Name) -> tuple[int, int] | None:
    """Return what all names of a file have in common, None if it cannot be found."""
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(path)
        return status.st_dev, status.st_ino
    return None


def check_unread(paths: Iterable[Name], sources: Iterable[Name | None]) -> None:
    """Raise an error if a file to write is one that the work reads, by whatever name.

    Args:
        paths: Files to write.
        sources: Files that the work reads. None is skipped, and so is a file that cannot
            be found: its reader says why.

    Raises:
        OSError: If one of ``paths`` is one of the files that are read.
    """
    read = {_number(source) for source in sources if source is not None} - {None}
    for path in paths:
        if _number(path) in read:
            _refuse(errno.EINVAL, Path(path), 'Would overwrite the file that is read')


def check_file(path: Name, *sources: Name | None) -> Path:
    """Raise the error that :func:`whole_file` would raise, before the work.

    Args:
        path: File to write.
        *sources: Files that the work reads, as in :func:`check_unread`.

    Returns:
        File that will be replaced; for a link, the file at its end.

    Raises:
        OSError: If ``path`` cannot be written, or is a file that is read.
    """
    check_unread([path], sources)
    path = Path(path)
    target, status = _end_of(path)
    if status is None:
        if not target.parent.is_dir():
            _refuse(errno.ENOENT, path, 'No such folder')
    elif stat.S_ISDIR(status.st_mode):
        _refuse(errno.EISDIR, path)
    elif not stat.S_ISREG(status.st_mode):
        _refuse(errno.EINVAL, path, 'Not a regular file')
    elif not _allowed(target, os.W_OK):
        _refuse(errno.EACCES, path)
    elif os.path.ismount(target):  # of a container
        _refuse(errno.EBUSY, path, 'A mount point, so mount the folder instead')
    elif _is_standard_stream(status):
        _refuse(errno.EINVAL, path, 'The output of this process goes there')
    if not _allowed(target.parent, os.W_OK | os.X_OK):
        _refuse(errno.EACCES, path)
    return target


def _is_standard_stream(status: os.stat_result) -> bool:
    """Return True if ``print`` writes to this file, as for ``/dev/stdout``."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if os.path.samestat(os.fstat(stream.fileno()), status):
                return True
    return False


@contextlib.contextmanager
def whole_file(path: Name, *, durable: bool = True) -> Iterator[Path]:
    """Yield a name to write to; the file replaces ``path`` when the block ends.

    An empty file with that name already exists. Its name has no ending, so a writer cannot
    guess the format from it. If the block fails, the old file does not change and nothing
    else is left. If two threads or processes write at once, the complete file of the last
    one stays.

    A new file gets the mode of the user's umask. A replaced file keeps its mode. A link
    stays a link, and the file at its end is replaced. Other hard links keep the old
    content.

    Args:
        path: File to write, in an existing folder.
        durable: Whether to flush the content to the disk before the block ends, so that
            even a power failure leaves no partial file. Default True.

    Raises:
        OSError: If it cannot be written. The error names ``path``, even if the writer in
            the block wrapped the error. Folders, devices, pipes and files without the
            right to write raise an error before the block.
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
    """Make the empty file, and return its final mode."""
    handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    os.close(handle)
    return _writable(partial, _status(target), 0o600)


def _writable(partial: Path, old: os.stat_result | None, needed: int) -> int:
    """Set a mode with which only allowed users can read; return the final mode."""
    made = stat.S_IMODE(partial.stat().st_mode)
    mode = made if old is None else stat.S_IMODE(old.st_mode)
    if mode | needed != made:
        partial.chmod(mode | needed)
    return mode


def check_folder(root: Name, *sources: Name | None, replace: bool = False) -> Path:
    """Raise the error that :func:`whole_folder` would raise, before the work.

    Args:
        root: Folder to write.
        *sources: Files that the work reads, as in :func:`check_unread`.
        replace: As in :func:`whole_folder`.

    Returns:
        Folder that will be made or replaced; for a link, the folder at its end.

    Raises:
        OSError: If ``root`` cannot be written, or holds a file that is read.
    """
    root = Path(root)
    target, status = _end_of(root)
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
        if any(_lies_in(source, target) for source in sources if source is not None):
            _refuse(errno.EINVAL, root, 'Would overwrite the file that is read')
        if replace:
            _check_removable(target, root)
    _check_above(target, root)
    return target


def _lies_in(source: Name, folder: Path) -> bool:
    """Return True if ``source`` lies in ``folder``, or is a link that lies there."""
    path = Path(source)
    if not os.path.exists(path):
        return False
    names = (Path(os.path.realpath(path)), Path(os.path.realpath(path.parent), path.name))
    return any(folder in name.parents for name in names)


def _check_removable(target: Path, root: Path) -> None:
    """Raise an error if the files of a folder that is replaced could not be removed."""
    folders = [target, *(path for path in target.iterdir() if path.is_dir())]
    for folder in folders:
        if not folder.is_symlink() and not _allowed(folder, os.W_OK | os.X_OK):
            _refuse(errno.EACCES, root / folder.relative_to(target))


def _check_above(target: Path, root: Path) -> None:
    above = next(folder for folder in target.parents if folder.exists())
    if not above.is_dir():
        _refuse(errno.ENOTDIR, root)
    if not _allowed(above, os.W_OK | os.X_OK):
        _refuse(errno.EACCES, root)


def check_place(root: Name) -> Path:
    """Raise the error of making ``root`` and writing files in it, before the work.

    Args:
        root: A folder, which may hold other files, or a name at which one can be made.

    Returns:
        ``root``.

    Raises:
        OSError: If no file can be written there.
    """
    root = Path(root)
    target, status = _end_of(root)
    if status is None:
        _check_above(target, root)
    elif not stat.S_ISDIR(status.st_mode):
        _refuse(errno.ENOTDIR, root)
    elif not _allowed(target, os.W_OK | os.X_OK):
        _refuse(errno.EACCES, root)
    return root


@contextlib.contextmanager
def whole_folder(root: Name, *, replace: bool = False) -> Iterator[Path]:
    """Yield a folder to write to; it becomes ``root`` when the block ends.

    If the block fails, ``root`` does not change and nothing else is left. The content is
    flushed to the disk before it appears. A new folder gets the mode of the user's umask. A
    replaced folder keeps its mode.

    With ``replace``, a reader of ``root`` always finds a complete folder, the old one or the
    new one, if the system can exchange two names in one step (Linux, on all usual file
    systems). On other systems the name is missing between two renames. A process that is
    killed between them leaves the old folder next to it, as ``.NAME.....part``. A reader of
    several files must use :func:`read_whole`, because the folder can change between two
    files.

    Args:
        root: Folder to write; missing parents are created. A link stays a link.
        replace: Whether to replace an existing folder with all its content; check its
            content first. Default False: an existing folder must be empty.

    Raises:
        OSError: If it cannot be written. The error names the file as it would be in
            ``root``.
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
        _take_place(partial, target, root, replace)
        flush_name(target)


def _take_place(partial: Path, target: Path, root: Path, replace: bool) -> None:
    try:
        if replace and target.exists():
            swap(partial, target)  # the old folder is removed
        else:
            os.rename(partial, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            _refuse(errno.EEXIST, root, 'Another process has written the folder')
        raise


def is_filled(root: Name, *parts: str) -> bool:
    """Return whether a data set was written to a folder; a missing or empty one has none.

    Args:
        root: Folder to look at.
        *parts: Folders of the data set, one of which it must have.

    Raises:
        FileExistsError: If something else is in the folder.
    """
    if not os.path.isdir(root) or not any(Path(root).iterdir()):
        return False
    if not any(Path(root, part).is_dir() for part in parts):
        raise FileExistsError(f'{root} holds something else: it has no folder {" or ".join(parts)}')
    return True


@contextlib.contextmanager
def _folders_above(target: Path) -> Iterator[None]:
    """Make missing parent folders; remove them again if the block fails."""
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # another process uses it, or it was not made
                folder.rmdir()
        raise


def _identity(root: Path) -> tuple[int, int, int] | None:
    with contextlib.suppress(OSError, ValueError):  # ValueError: a zero byte in the name
        status = root.stat()
        # the number can be reused, but a rename sets the time
        return status.st_dev, status.st_ino, status.st_ctime_ns
    return None


def read_whole(root: Name, read: Callable[[], T]) -> T:
    """Read several files of a folder that can be replaced meanwhile.

    Args:
        root: Folder to read.
        read: Function that reads the files. It is called again if ``root`` was replaced
            while it ran.

    Returns:
        Result of ``read``, with all files from the same folder.

    Raises:
        Exception: Error that ``read`` raised while the folder stayed the same.
        OSError: If it was replaced at every one of 100 attempts.
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
