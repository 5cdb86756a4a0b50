"""Results of a norm and a PReLU that are not written, for a norm on the native kernels to read.

Such a result is a function of the sums of signs that its norm reads. These need an eighth of its
memory with the four copies of ``tau=2``, and half of it with ``tau=1``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .sign_sums import SignSums, scaled


class _Write(torch.autograd.Function):
    """Step from the stand-in of a result to the result, whose gradient is that of the stand-in."""

    @staticmethod
    def forward(
        ctx: Any, stand_in: Tensor, sums: Tensor, scales: Tensor, numbers: Tensor
    ) -> Tensor:
        factor, offset, slope = numbers[..., None, None]
        small = scaled(sums, scales)
        x = torch.addcmul(offset, small.repeat(1, len(factor) // small.shape[1], 1, 1), factor)
        return torch.where(x > 0, x, slope * x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None, None, None


class ActivatedSums(NamedTuple):
    """Result ``prelu(factor tile(scales sums) + offset)``, which is not written.

    Attributes:
        stand_in: Tensor of the result's shape, of one NaN in memory. Gradients flow through it.
        sums: Sums of products of signs, int16, ``(N, C, H, W)``.
        scales: Scale of each of their channels, ``(C,)``.
        numbers: Factor, offset, and slope of each channel of the result, ``(3, copies C)``.
    """

    stand_in: Tensor
    sums: Tensor
    scales: Tensor
    numbers: Tensor

    def result(self) -> Tensor:
        """Write the result."""
        return _Write.apply(self.stand_in, self.sums, self.scales, self.numbers)


#: Result of a norm and a PReLU: written, or for a norm to read.
Activated = Tensor | ActivatedSums


def written(y: Tensor | SignSums | ActivatedSums) -> Tensor:
    """Return a result that every operator can read, also a proxy of ``torch.fx`` as it is."""
    return y.result() if isinstance(y, (SignSums, ActivatedSums)) else y
