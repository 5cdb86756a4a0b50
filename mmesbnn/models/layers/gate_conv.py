"""Convolution of squeeze-excite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...binary.functional import autocast_operands
from ...binary.signs import trains_on_cpu
from ...binary.tracing import whole_layer
from .minmax import MinMaxConv2d


class _OnePosition(torch.autograd.Function):
    """Step ``weight x + bias`` for maps with one position; operands have one dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = torch.addmm(bias, x.flatten(1), weight.flatten(1).t())
        return y[:, :, None, None]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(1)
        wanted = ctx.needs_input_grad
        grad_x = (rows @ weight.flatten(1)).view_as(x) if wanted[0] else None
        grad_weight = (rows.t() @ x.flatten(1)).view_as(weight) if wanted[1] else None
        return grad_x, grad_weight, rows.sum(0) if wanted[2] else None


class GateConv2d(nn.Conv2d):
    """1x1 convolution of maps with one position, with a fast training step on a CPU.

    Torch's convolution takes several times as long there as a product of matrices. Arguments
    and keys of the state dict are those of ``nn.Conv2d``.

    Shape:
        ``(N, C_i, 1, 1)`` to ``(N, C_o, 1, 1)``.
    """

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x`` with the kernel."""
        if self.bias is None or self.groups > 1 or not trains_on_cpu(x, self.weight):
            return super().forward(x)
        operands = autocast_operands(x, self.weight)
        return _OnePosition.apply(*operands, self.bias.to(operands[0].dtype))


def gate_conv(
    in_channels: int, out_channels: int, groups: int = 1, bits: int | None = None
) -> nn.Conv2d:
    """Build a 1x1 convolution of squeeze-excite: full precision, or ``bits`` if given."""
    if bits is None:
        return GateConv2d(in_channels, out_channels, 1, groups=groups)
    return MinMaxConv2d(in_channels, out_channels, 1, groups=groups, bits=bits)
