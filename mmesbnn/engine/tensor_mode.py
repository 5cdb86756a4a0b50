"""Running the model of a runner on a batch to look at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import nn


def tensor_mode(model: nn.Module, batch: Any) -> Callable[[], object]:
    """A function that runs ``model`` on ``batch`` in OpenMMLab's mode ``'tensor'``.

    The data preprocessor prepares the batch as for a test, without augmentation. Random
    numbers that the run draws are put back, so that training goes on as without it.

    Args:
        model: The runner's model, maybe in a wrapper for distributed training.
        batch: What its data loader gives.
    """
    plain: Any = model.module if is_model_wrapper(model) else model

    def run() -> object:
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            data = plain.data_preprocessor(batch, False)
            if isinstance(data, Mapping):
                return plain(**data, mode='tensor')
            return plain(*data, mode='tensor')

    return run
