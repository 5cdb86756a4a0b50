"""Copies of checkpoints that hold only what is published."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoints import read_checkpoint
from ..whole_files import whole_file


def write_published_copy(
    checkpoint: str | Path, *, keys: Sequence[str], logger: logging.Logger
) -> None:
    """Write a copy of a checkpoint with some of its entries, if it has any of them.

    The name of the copy ends with the first eight digits of the SHA-256 of the file, as
    ``torch.hub`` expects it. The same checkpoint therefore has the same copy.

    Args:
        checkpoint: Path of the checkpoint. The copy is written into its folder.
        keys: Entries of the copy. Missing ones are named in the log.
        logger: Log of the training.
    """
    path, whole = Path(checkpoint), read_checkpoint(checkpoint)
    kept = {key: value for key, value in whole.items() if key in keys}
    missing = [key for key in keys if key not in whole]
    if missing:
        logger.warning(
            f'WholeCheckpointHook: published_keys={keys}: {path} has no '
            f'{", ".join(missing)}, but {", ".join(whole)}'
        )
    if not kept:
        return
    # mmengine pickles for its digest, which has addresses of tensors in it
    file = io.BytesIO()
    torch.save(kept, file)
    digest = hashlib.sha256(file.getbuffer()).hexdigest()
    published = path.with_name(f'{path.stem}-{digest[:8]}.pth')
    with whole_file(published) as partial:
        partial.write_bytes(file.getbuffer())
    logger.info(f'{path} is published to {published}.')
