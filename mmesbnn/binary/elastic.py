"""Binarization of probabilities to 0 and one learnable value."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..native import elastic_gradients, elastic_values
from ..native.activations import LEAST_CLIP
from .levels import dorefa
from .native_training import trains_natively
from .once_differentiable import once_differentiable
from .tracing import is_seen


class _Binarize(torch.autograd.Function):
    """Step of :func:`elastic_binarize`. It stores its operands."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor) -> Tensor:
        ctx.save_for_backward(x, clip)
        y = elastic_values(x.detach().numpy(), clip.item(), threads=torch.get_num_threads())
        return torch.from_numpy(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, clip = ctx.saved_tensors
        arrays = grad.detach().contiguous().numpy(), x.numpy()
        of_x, of_clip = elastic_gradients(*arrays, clip.item(), threads=torch.get_num_threads())
        return torch.from_numpy(of_x), torch.full_like(clip, of_clip)


def is_native_clip(clip: Tensor, dims: int) -> bool:
    """Return whether the kernels binarize tensors of ``dims`` axes with ``clip``."""
    # a number, a subclass or a fake tensor goes the way of torch's operators
    if is_seen(clip) or clip.dtype != torch.float32 or not clip.is_cpu or clip.numel() != 1:
        return False
    return clip.dim() <= dims and LEAST_CLIP <= clip.item() < math.inf


def elastic_binarize(x: Tensor, clip: Tensor) -> Tensor:
    """Compute ``clip * clamp(round(x / clip), 0, 1)``: 0 up to the threshold ``clip / 2``.

    With ``r = x / clip`` the gradients are ``dy/dx = 1 if 0 <= r <= 1 else 0`` and
    ``dy/dclip = round(r) - r if 0 <= r <= 1 else (1 if r > 1 else 0)``.

    Args:
        x: Tensor of any shape, such as attention probabilities.
        clip: Tensor with one positive entry.

    Source: Liu et al., "BiT: Robustly Binarized Multi-distilled Transformer" (2022).
    """
    trains = trains_natively(x, dims=x.dim()) and x.is_contiguous()
    if trains and is_native_clip(clip, x.dim()):
        return _Binarize.apply(x, clip)
    return clip * dorefa(x / clip, bits=1)


class ElasticBinarizer(nn.Module):
    """:func:`elastic_binarize` as a module, which an export can replace."""

    def forward(self, x: Tensor, clip: Tensor) -> Tensor:
        """Binarize ``x``, a tensor of any shape."""
        return elastic_binarize(x, clip)
