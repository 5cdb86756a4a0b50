"""Means over the positions of a map, for squeeze-excite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .precision import wide_dtype
from .signs import trains_on_cpu
from .tracing import whole_function


class _Mean(torch.autograd.Function):
    """Step ``mean(x)`` whose backward pass divides the small gradient, not every position's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        wide = x.sum((2, 3), keepdim=True, dtype=wide_dtype(x.dtype))
        return (wide / (x.shape[2] * x.shape[3])).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return (grad / (ctx.shape[2] * ctx.shape[3])).expand(ctx.shape)


@whole_function
def position_mean(x: Tensor) -> Tensor:
    """Compute the mean over positions, ``(N, C, H, W)`` to ``(N, C, 1, 1)``."""
    if not trains_on_cpu(x):
        return x.mean((2, 3), keepdim=True)
    return x if x.shape[2:] == (1, 1) else _Mean.apply(x)
