"""Results of binary convolutions as sums of signs, which a norm on the native kernels reads.

A sum of products of signs is an integer. Written with 16 bits it needs half of the memory of the
result, which is the sum times the scale of its kernel, and loses nothing.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..native import scale_sums
from .native_mode import map_of_rows, rows_of_map


class _Scale(torch.autograd.Function):
    """Step from the stand-in of a result to the result, whose gradient is that of the stand-in."""

    @staticmethod
    def forward(ctx: Any, stand_in: Tensor, sums: Tensor, scales: Tensor) -> Tensor:
        return scaled(sums, scales).detach()  # torch lets it be changed in place, unlike a view

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None, None


class SignSums(NamedTuple):
    """Result ``scales sums`` of a binary convolution or linear layer, which is not written.

    Attributes:
        stand_in: Tensor of the result's shape, of one NaN in memory. Gradients flow through it.
        sums: Sums of products of signs, int16: a map ``(N, C, H, W)`` or tokens ``(N, L, C)``.
        scales: Scale of each kernel, ``(C,)``.
    """

    stand_in: Tensor
    sums: Tensor
    scales: Tensor

    def result(self) -> Tensor:
        """Write the result."""
        return _Scale.apply(self.stand_in, self.sums, self.scales)


#: Result of a binary convolution: written, or for a norm to read.
Convolved = Tensor | SignSums


def scaled(sums: Tensor, scales: Tensor) -> Tensor:
    """Compute the result of a binary convolution or linear layer from sums and scales."""
    maps = map_of_rows(sums) if sums.dim() == 3 else sums
    y = scale_sums(maps.numpy(), scales.numpy(), threads=torch.get_num_threads())
    made = torch.from_numpy(y)
    return rows_of_map(made, sums.shape[:-1]) if sums.dim() == 3 else made


def stand_in(shape: tuple[int, ...]) -> Tensor:
    """Return a float32 tensor of a shape whose entries are all the same NaN in memory."""
    return torch.full((), math.nan, dtype=torch.float32, device='cpu').expand(shape)
