"""Base of signs and weight binarizers that change in the course of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .precision import KeepsFloat32, wide_dtype


class Scheduled(KeepsFloat32):
    """Base of signs and weight binarizers whose formula depends on the training's progress.

    Only :class:`mmesbnn.engine.hooks.EstimatorProgressHook` changes the progress; ``forward``
    never does. Without the hook it stays 0.

    Attributes:
        progress: Buffer without axes, from 0 (start of the training) to 1 (end).
        progress_is_saved: Whether it is part of the state dict. It is if values depend on it,
            and not only gradients.
    """

    progress_is_saved = False
    progress: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # not on the device of a context, see _apply
        start = torch.zeros((), device='cpu')
        self.register_buffer('progress', start, persistent=self.progress_is_saved)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        before = self.progress
        super()._apply(fn, *args, **kwargs)
        if self.progress.is_meta and not self.progress_is_saved:
            self.progress = before  # no file restores it in a model that is built on 'meta'
        return self


def progress_of(progress: Tensor | float, like: Tensor) -> Tensor:
    """Return the progress as a tensor without axes, in ``like``'s dtype or float32."""
    if not isinstance(progress, Tensor):
        progress = torch.tensor(progress, dtype=torch.float32, device='cpu')
    return progress.to(wide_dtype(like.dtype))
