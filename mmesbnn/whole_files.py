"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A name to write to, which takes the place of ``path`` when the block ends.

    An interrupted block leaves the old file whole. The name has no ending by which a
    writer could tell the format.

    Args:
        path: The file to write, in a folder that exists.

    Raises:
        OSError: If it cannot be put there.
    """
    path = Path(path)
    # beside it: a rename is atomic within one file system only
    partial = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(root: str | os.PathLike) -> Iterator[Path]:
    """A folder to write to, which becomes ``root`` when the block ends.

    Args:
        root: The folder to write, not there when the block ends; those above are made.

    Raises:
        OSError: If it cannot be put there.
    """
    root = Path(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp lets its owner alone in
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
