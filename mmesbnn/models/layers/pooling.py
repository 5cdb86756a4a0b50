"""Poolings with torch's results: faster training steps on a CPU, right gradients on a GPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...binary.block_means import block_mean
from ...binary.native_training import is_own, trains_natively
from ...binary.prelus import ChannelPReLU
from ...binary.signs import trains_on_cpu
from ...binary.tracing import whole_function, whole_layer
from .native_pooling import native_activated_pool, native_average_pool, native_max_pool


class _Quarters(torch.autograd.Function):
    """Step ``avg_pool2d(x, 2)`` for even sizes, by whole rows of vectors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        upper, lower = x[..., ::2, :], x[..., 1::2, :]
        # in the order of torch's sum, so that it rounds alike
        y = upper[..., ::2] + upper[..., 1::2]
        return y.add_(lower[..., ::2]).add_(lower[..., 1::2]).mul_(0.25)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        part = grad * 0.25
        *others, height, width = part.shape
        # not flatten, which torch has no rule for in a batch of gradients
        row = torch.stack((part, part), -1).reshape(*others, height, 2 * width)
        return torch.stack((row, row), -2).reshape(*others, 2 * height, 2 * width)


class _Maximum(torch.autograd.Function):
    """Step of a max-pool, found in channels-last memory. It stores where the largest values are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[int, int, int]) -> Tensor:
        ctx.shape, ctx.window = x.shape, window
        last = x.contiguous(memory_format=torch.channels_last)
        y, places = torch.ops.aten.max_pool2d_with_indices(last, *_pairs(window))
        ctx.save_for_backward(places.contiguous())
        return y.contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        # torch asks for the input, but reads its shape only
        x = grad.new_empty(ctx.shape)
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return backward(grad, x, *_pairs(ctx.window), [1, 1], False, places), None


def _pairs(window: tuple[int, int, int]) -> list[list[int]]:
    return [[number, number] for number in window]


@whole_function
def padded_average(x: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Compute the mean of the window around every position, padded with zeros.

    Torch's gradient of a padded average of a channels-last map is wrong on a GPU (torch 2.11,
    pytorch issue 188344). There the zeros are written first.

    Args:
        x: Map ``(N, C, H, W)``.
        kernel: Odd height and width of a window, in pixels.

    Returns:
        Map of ``x``'s shape.
    """
    rows, columns = (size // 2 for size in kernel)
    if x.device.type == 'cpu' or x.is_contiguous():
        return F.avg_pool2d(x, kernel, 1, (rows, columns))
    return F.avg_pool2d(F.pad(x, (columns, columns, rows, rows)), kernel, 1)


class MaxPool(nn.MaxPool2d):
    """Max-pooling of square windows.

    Torch's takes ten times as long in training as in channels-last memory.

    Args:
        kernel_size: Height and width of a window, in pixels.
        stride: Distance of windows in pixels.
        padding: Pixels added on each side, which are never the largest.

    Shape:
        ``(N, C, H, W)`` to ``(N, C, H', W')``.
    """

    kernel_size: int
    stride: int
    padding: int

    def __init__(self, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__(kernel_size, stride, padding)

    @whole_layer
    def forward(self, input: Tensor) -> Tensor:
        """Pool ``input``."""
        if input.dim() == 4 and input.is_contiguous() and trains_on_cpu(input):
            window = self.kernel_size, self.stride, self.padding
            y = native_max_pool(input, *window)
            return _Maximum.apply(input, window) if y is None else y
        return super().forward(input)


class AveragePool(nn.AvgPool2d):
    """2x2 average pooling that keeps the last row and column of odd sizes.

    Its output has the size of the parallel stride-2 convolution. For even sizes it is plain 2x2
    pooling; the published networks have even sizes only. A training step of these takes a third of
    the time of torch's pooling on a CPU, with the same results.

    Shape:
        ``(N, C, H, W)`` to ``(N, C, ceil(H / 2), ceil(W / 2))``.
    """

    def __init__(self) -> None:
        super().__init__(2, 2, ceil_mode=True, count_include_pad=False)

    @whole_layer
    def forward(self, input: Tensor) -> Tensor:
        """Pool ``input``."""
        even = input.shape[-1] % 2 == 0 and input.shape[-2] % 2 == 0
        # torch sums lower precision in float32
        exact = input.dtype in (torch.float32, torch.float64)
        if even and exact and input.is_contiguous() and trains_on_cpu(input):
            y = native_average_pool(input)
            return _Quarters.apply(input) if y is None else y
        return block_mean(input, 2, ceil_mode=True)


def keeps_mean(pool: nn.Module, x: Tensor) -> bool:
    """Return whether a pooling of ``x``, or an identity, has the mean of ``x`` over positions."""
    even = x.shape[-1] % 2 == 0 and x.shape[-2] % 2 == 0
    return is_own(pool, nn.Identity) or (is_own(pool, AveragePool) and even)


def activated_pool(x: Tensor, act: nn.Module, pool: nn.Module) -> Tensor:
    """Compute ``pool(act(x))``, in one step on the native kernels.

    Args:
        x: Map ``(N, C, H, W)``.
        act: :class:`ChannelPReLU`, or another layer.
        pool: :class:`AveragePool`, or another layer.
    """
    pools = isinstance(pool, AveragePool) and trains_natively(x) and keeps_mean(pool, x)
    if pools and is_own(act, ChannelPReLU):
        y = native_activated_pool(x, act.weight)
        if y is not None:
            return y
    return pool(act(x))
