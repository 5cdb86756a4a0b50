"""Means of adjacent features, for the residuals of feed-forwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..native import average_neighbours, average_neighbours_gradient
from .native_training import trains_tokens_natively


class _NeighbourMean(torch.autograd.Function):
    """Step of :func:`neighbour_mean`.

    Groups are made in numpy, not by operators of torch: their gradient would be a view, and to a
    view autograd does not add another gradient in place, as it could for the other use of a
    feed-forward's hidden features.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: int) -> Tensor:
        ctx.window = window
        groups = x.detach().numpy().reshape(*x.shape[:2], -1, window)
        return torch.from_numpy(average_neighbours(groups, threads=torch.get_num_threads()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        threads = torch.get_num_threads()
        of_x = average_neighbours_gradient(grad.detach().numpy(), ctx.window, threads=threads)
        return torch.from_numpy(of_x.reshape(*grad.shape[:2], -1)), None


def neighbour_mean(x: Tensor, window: int) -> Tensor:
    """Compute the means of features side by side, also on the native kernels.

    Args:
        x: Tokens ``(N, L, C)``.
        window: ``r``, number of features of a mean, a divisor of ``C``.

    Returns:
        ``(N, L, C / r)``.
    """
    if trains_tokens_natively(x):
        return _NeighbourMean.apply(x, window)
    return x.unflatten(-1, (-1, window)).mean(-1)
