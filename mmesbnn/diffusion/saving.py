"""A pipeline's folder that appears whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import MmesbnnError
from ..whole_files import check_folder, whole_folder

#: What a pipeline's folder holds.
_NAMES = ('README.md', 'model_index.json', 'scheduler', 'unet')


def check_pipeline_folder(out: str | os.PathLike[str]) -> None:
    """Raise an error if ``out`` cannot become a pipeline's folder.

    Raises:
        MmesbnnError: If it holds other files than a pipeline.
        OSError: If it cannot be written.
    """
    target = check_folder(out, replace=True)
    if target.is_dir() and (
        other := sorted(p.name for p in target.iterdir() if p.name not in _NAMES)
    ):
        raise MmesbnnError(
            f'{out}: holds other files than a pipeline ({other[0]}); name a new folder'
        )


def save_pipeline(pipeline: Any, out: str | os.PathLike[str]) -> None:
    """Write a pipeline of diffusers as a folder; a former one there is replaced.

    A reader finds the old folder or the new one, see
    :func:`~mmesbnn.whole_files.whole_folder`.

    Args:
        pipeline: What has ``save_pretrained``.
        out: The folder.

    Raises:
        MmesbnnError: If the folder holds other files than a pipeline.
        OSError: If it cannot be written.
    """
    check_pipeline_folder(out)
    with whole_folder(Path(out), replace=True) as folder:
        pipeline.save_pretrained(folder)
