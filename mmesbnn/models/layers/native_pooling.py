"""Training steps of poolings on the native kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import function

from ...binary.native_mode import array_of
from ...binary.native_training import trains_natively
from ...binary.once_differentiable import once_differentiable
from ...native import (
    average_activated,
    average_activated_gradients,
    average_pool,
    average_pool_gradient,
    max_pool,
    max_pool_gradient,
)
from ...native.pooling import LARGEST_WINDOW


class _Average(torch.autograd.Function):
    """Step ``avg_pool2d(x, 2)`` for even sizes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(average_pool(x.detach().numpy(), threads=torch.get_num_threads()))

    @staticmethod
    @function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        threads = torch.get_num_threads()
        return torch.from_numpy(average_pool_gradient(grad.detach().numpy(), threads=threads))


class _ActivatedAverage(torch.autograd.Function):
    """Step ``avg_pool2d(prelu(x), 2)`` for even sizes. The PReLU is not stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        arrays = x.detach().numpy(), array_of(slope.contiguous())
        return torch.from_numpy(average_activated(*arrays, threads=torch.get_num_threads()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        arrays = grad.detach().contiguous().numpy(), x.numpy(), array_of(slope.contiguous())
        found = average_activated_gradients(*arrays, threads=torch.get_num_threads())
        of_x, of_slope = map(torch.from_numpy, found)
        return of_x, of_slope


class _Maximum(torch.autograd.Function):
    """Step of a max-pool. It stores a byte for each window, where its largest value is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: dict[str, int]) -> Tensor:
        ctx.size, ctx.window = tuple(x.shape[2:]), window
        y, places = max_pool(x.detach().numpy(), **window, threads=torch.get_num_threads())
        ctx.save_for_backward(torch.from_numpy(places))
        return torch.from_numpy(y)

    @staticmethod
    @function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        arrays, threads = (grad.detach().numpy(), places.numpy()), torch.get_num_threads()
        of_x = max_pool_gradient(*arrays, size=ctx.size, **ctx.window, threads=threads)
        return torch.from_numpy(of_x), None


def native_average_pool(x: Tensor) -> Tensor | None:
    """Compute the means of 2x2 pixels; return None where torch's operators must run.

    Args:
        x: Map ``(N, C, H, W)`` of even height and width.
    """
    return _Average.apply(x) if trains_natively(x) and x.is_contiguous() else None


def native_activated_pool(x: Tensor, slope: Tensor) -> Tensor | None:
    """Compute the means of 2x2 pixels of a PReLU; return None where torch's operators must run.

    Args:
        x: Map ``(N, C, H, W)`` of even height and width that trains on the kernels.
        slope: ``(C,)``.
    """
    fits = slope.dtype == torch.float32 and slope.shape == x.shape[1:2]
    return _ActivatedAverage.apply(x, slope) if fits and x.is_contiguous() else None


def native_max_pool(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor | None:
    """Find the largest pixels of windows; return None where torch's operators must run.

    Args:
        x: Map ``(N, C, H, W)``.
        kernel: Height and width of a window, in pixels.
        stride: Distance of windows, in pixels.
        padding: Pixels added on each side.
    """
    if not trains_natively(x) or not x.is_contiguous() or kernel > LARGEST_WINDOW:
        return None
    if 2 * padding > kernel or min(x.shape[2:]) + 2 * padding < kernel:
        return None  # torch says what is wrong
    return _Maximum.apply(x, dict(kernel=kernel, stride=stride, padding=padding))
