"""Writers of files and folders, and limits they meet."""

import contextlib
import errno
import os
import resource
import stat
from pathlib import Path

from mmesbnn.whole_files import whole_file, whole_folder

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def file_limit(size):
    """Limit the size of files that this process writes to ``size`` bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, text):
    with whole_file(path) as partial:
        partial.write_text(text)


def write_folder(root, text, **options):
    with whole_folder(root, **options) as partial:
        for name in ('a', 'b'):
            (partial / name).write_text(text)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
