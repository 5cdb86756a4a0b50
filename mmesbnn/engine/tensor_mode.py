"""Run of a runner's model on a batch for analysis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .reach import student_and_teacher, unwrapped


def _one_branch(batch: Any) -> Any:
    """Return the first branch with images of a semi-supervised batch; other batches as they are."""
    branches = batch.get('inputs') if isinstance(batch, Mapping) else None
    if not isinstance(branches, Mapping):
        return batch
    name = next(name for name, images in branches.items() if any(x is not None for x in images))
    # each image is None in the branches of others
    return {key: [x for x in entries[name] if x is not None] for key, entries in batch.items()}


def tensor_mode(model: nn.Module, batch: Any) -> Callable[[], object]:
    """Return a function that runs ``model`` on ``batch`` in OpenMMLab's mode ``'tensor'``.

    The data preprocessor prepares the batch as for a test, without augmentation. The state
    of the random generators is restored after the run, so the run does not change the
    training. Of a student and its teacher, as in mmdet's ``SoftTeacher``, the student runs,
    on the images of one branch of the batch.

    Args:
        model: Model of the runner, with or without a wrapper for distributed training.
        batch: Batch of its data loader.
    """
    plain = unwrapped(model)
    network, _ = student_and_teacher(plain) or (plain, None)

    def run() -> object:
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            data = plain.data_preprocessor(_one_branch(batch), False)
            if isinstance(data, Mapping):
                return network(**data, mode='tensor')
            return network(*data, mode='tensor')

    return run
