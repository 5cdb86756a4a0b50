"""Run of a runner's model on a batch for analysis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .reach import unwrapped


def tensor_mode(model: nn.Module, batch: Any) -> Callable[[], object]:
    """Return a function that runs ``model`` on ``batch`` in OpenMMLab's mode ``'tensor'``.

    The data preprocessor prepares the batch as for a test, without augmentation. The state
    of the random generators is restored after the run, so the run does not change the
    training.

    Args:
        model: Model of the runner, with or without a wrapper for distributed training.
        batch: Batch of its data loader.
    """
    plain = unwrapped(model)

    def run() -> object:
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            data = plain.data_preprocessor(batch, False)
            if isinstance(data, Mapping):
                return plain(**data, mode='tensor')
            return plain(*data, mode='tensor')

    return run
