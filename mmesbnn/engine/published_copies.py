"""Copies of checkpoints that hold only what is published."""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoints import read_checkpoint
from ..whole_files import whole_file


def write_published_copy(
    checkpoint: str | Path, *, keys: Sequence[str], logger: logging.Logger
) -> None:
    """Write a copy of a checkpoint with some of its entries, if it has any of them.

    As in mmengine's ``CheckpointHook`` the name of the copy ends with the first eight digits
    of the SHA-256 of its content.

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
    digest = hashlib.sha256(pickle.dumps(kept)).hexdigest()
    published = path.with_name(f'{path.stem}-{digest[:8]}.pth')
    with whole_file(published) as partial:
        torch.save(kept, partial)
    logger.info(f'{path} is published to {published}.')
