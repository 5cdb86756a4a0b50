"""Writing of a pipeline's folder as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import MmesbnnError
from ..whole_files import check_folder, whole_folder

#: Names in a pipeline's folder.
_NAMES = ('README.md', 'model_index.json', 'scheduler', 'unet')


def check_pipeline_folder(
    out: str | os.PathLike[str], *sources: str | os.PathLike[str] | None
) -> None:
    """Raise an error if ``out`` cannot become a pipeline's folder.

    Args:
        out: Folder to write.
        *sources: Files that are read; None is skipped.

    Raises:
        MmesbnnError: If it holds files that do not belong to a pipeline.
        OSError: If it cannot be written, or holds a file that is read.
    """
    target = check_folder(out, *sources, replace=True)
    if target.is_dir() and (
        other := sorted(p.name for p in target.iterdir() if p.name not in _NAMES)
    ):
        raise MmesbnnError(
            f'{out}: holds files that do not belong to a pipeline ({other[0]}); name a new folder'
        )


def save_pipeline(pipeline: Any, out: str | os.PathLike[str]) -> None:
    """Write a pipeline of diffusers as a folder; an old pipeline there is replaced.

    A reader sees the complete old folder or the complete new one, see
    :func:`~mmesbnn.whole_files.whole_folder`.

    Args:
        pipeline: Pipeline with ``save_pretrained``.
        out: Folder to write.

    Raises:
        MmesbnnError: If the folder holds files that do not belong to a pipeline.
        OSError: If it cannot be written.
    """
    check_pipeline_folder(out)
    with whole_folder(Path(out), replace=True) as folder:
        pipeline.save_pretrained(folder)
