"""Means of blocks of pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .signs import compiles_for_speed


def block_mean(x: Tensor, size: int, *, ceil_mode: bool = False) -> Tensor:
    """Compute the mean of each block of ``size x size`` pixels.

    ``torch.compile`` needs seconds for each gradient of torch's pooling. Where blocks are whole,
    it gets a mean over two axes.

    Args:
        x: Map ``(N, C, H, W)``.
        size: Height and width of a block, in pixels.
        ceil_mode: Whether the last rows and columns that fill no block are averaged, too.
            Default False.
    """
    whole = x.shape[-2] % size == 0 and x.shape[-1] % size == 0
    if whole and compiles_for_speed():
        return x.unflatten(-1, (-1, size)).unflatten(-3, (-1, size)).mean((-3, -1))
    return F.avg_pool2d(x, size, ceil_mode=ceil_mode, count_include_pad=False)
