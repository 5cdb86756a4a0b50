"""Joined maps of units that stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import function

from .native_mode import kept
from .native_training import trains_natively


class _Join(torch.autograd.Function):
    """Step ``cat(parts, 1)`` whose result and gradients lie in memory that is kept for steps."""

    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.channels = [part.shape[1] for part in parts]
        batch, _, *size = parts[0].shape
        return torch.cat(parts, 1, out=kept(batch, sum(ctx.channels), *size))

    @staticmethod
    @function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        parts = grad.split(ctx.channels, 1)
        return tuple(kept(*part.shape).copy_(part) for part in parts)


def join_channels(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate maps ``(N, C_i, H, W)`` along their channels."""
    if len(parts) == 1:
        return parts[0]
    if trains_natively(*parts) and all(part.is_contiguous() for part in parts):
        return cast(Tensor, _Join.apply(*parts))
    return torch.cat(list(parts), 1)
