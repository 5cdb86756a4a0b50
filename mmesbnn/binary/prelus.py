"""PReLU as a single step of autograd.

Torch's own backward pass of a PReLU with a slope per channel takes twenty times as long as an
addition on a CPU. ``torch.func`` and inference get plain operations, ``torch.compile`` gets one.
An accelerator gets torch's own passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..native import prelu_gradients
from .functional import autocast_operands
from .native_mode import array_of, is_native
from .signs import compiles_for_speed, is_composed, needs_grad, trains_on_cpu
from .tracing import is_seen, whole_layer


class _PReLU(torch.autograd.Function):
    """Step ``max(x, 0) + slope * min(x, 0)`` for operands of one dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return torch._prelu_kernel(x, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, slope = ctx.saved_tensors
        if x.device.type != 'cpu':
            grad_x, products = torch.ops.aten._prelu_kernel_backward(grad, x, slope)
            return grad_x, products.sum_to_size(slope.shape)
        if _is_native_map(x, grad, slope) and not torch.is_grad_enabled():
            return _native_gradients(grad, x, slope)
        positive = torch.ops.aten.threshold_backward(grad, x, 0)
        negative = grad - positive
        grad_x, grad_slope = positive.addcmul_(negative, slope), None
        if ctx.needs_input_grad[1]:
            # the product is written to what comes from ``grad``, which can be a batch of gradients
            lower = x.clamp(max=0)
            products = negative * lower if torch.is_grad_enabled() else negative.mul_(lower)
            grad_slope = products.sum_to_size(slope.shape)
        return grad_x, grad_slope


def _is_native_map(x: Tensor, grad: Tensor, slope: Tensor) -> bool:
    """Return whether the native kernels can differentiate, for a slope per channel of a map."""
    if not is_native() or is_seen(x, grad, slope) or x.dim() != 4 or x.device.type != 'cpu':
        return False
    if not x.dtype == grad.dtype == slope.dtype == torch.float32:
        return False
    per_channel = slope.numel() == x.shape[1] and slope.shape[-3:] == (x.shape[1], 1, 1)
    return per_channel and x.numel() > 0 and x.is_contiguous() and grad.is_contiguous()


def _native_gradients(grad: Tensor, x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    arrays = (grad.detach().numpy(), x.detach().numpy(), array_of(slope.flatten()))
    of_x, of_slope = map(
        torch.from_numpy, prelu_gradients(*arrays, threads=torch.get_num_threads())
    )
    return of_x, of_slope.view_as(slope)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Compute ``max(x, 0) + slope * min(x, 0)`` for a slope that broadcasts with ``x``.

    Torch's own function accepts slopes along axis 1 only. The gradients are the same,
    including at 0.

    Args:
        x: Tensor of any shape.
        slope: Slopes for negative entries.

    Returns:
        Tensor of ``x``'s shape, in the dtype to which torch promotes the arguments.
    """
    if not (needs_grad(x) or needs_grad(slope)):
        return x.relu() + slope * x.clamp(max=0)
    if compiles_for_speed() and x.dtype == slope.dtype:
        return torch._prelu_kernel(x, slope)
    if is_composed():  # the gradient of clamp at 0 depends on the release of torch
        return x.relu() + slope * torch.where(x > 0, 0.0, x)
    dtype = torch.result_type(x, slope)
    return _PReLU.apply(x.to(dtype), slope.to(dtype))


class ChannelPReLU(nn.PReLU):
    """``nn.PReLU`` of maps with a fast training step on a CPU.

    Args:
        num_parameters: Channels of the map.
        init: Initial slope. Default 0.25.

    Shape:
        ``(N, C, H, W)`` to the same.
    """

    @whole_layer
    def forward(self, input: Tensor) -> Tensor:
        """Apply the PReLU to ``input``."""
        if not trains_on_cpu(input, self.weight):
            return super().forward(input)
        # as torch casts them under autocast
        input, slope = autocast_operands(input, self.weight)
        return _PReLU.apply(input, slope.view(-1, *[1] * (input.dim() - 2)))
