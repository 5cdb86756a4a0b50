"""Branches of a Transformer block that are scaled per channel of tokens and added."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...binary.native_training import are_float32, is_plain, trains_tokens_natively
from ...binary.tokens import map_of, tokens_of
from ...native import add_cross, cross_gradients
from .pooling import padded_average

#: Initial factors of the pooling branches.
POOL_SCALE = 0.0


class LayerScale(nn.Module):
    """Layer ``y = a x + m`` with learnable ``a`` and ``m`` per channel of tokens.

    Args:
        channels: ``C`` of the tokens ``(N, L, C)``.
        scale: Initial ``a``; the initial ``m`` is 0.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift ``x``."""
        return x * self.scale + self.shift


class PoolBranches(nn.Module):
    """Pooling branches ``sum_k a_k P_k(x) + m_k`` with poolings ``1 x k`` and ``k x 1``.

    ``P_k`` averages padded zeros, too. All ``a`` and ``m`` start at 0.

    Args:
        channels: Channels of the tokens.
        sizes: Odd sizes ``k``.
    """

    def __init__(self, channels: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.kernels = [kernel for k in sizes for kernel in ((k, 1), (1, k))]
        self.scales = nn.ModuleList(LayerScale(channels, POOL_SCALE) for _ in self.kernels)

    def forward(self, y: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Add the branches of the tokens ``x`` to ``y``."""
        if _add_natively(y, x, *self.scales):
            windows = _windows(tuple(self.kernels))
            taps = windows @ torch.stack([_own(scale).scale for scale in self.scales])
            shift = torch.stack([_own(scale).shift for scale in self.scales]).sum(0)
            return _AddCross.apply(y, x, taps, shift, size)
        x = map_of(x, size)
        for kernel, scale in zip(self.kernels, self.scales):
            y = y + scale(tokens_of(padded_average(x, kernel)))
        return y


def add_scaled(y: Tensor, x: Tensor, scale: nn.Module) -> Tensor:
    """Compute ``y + scale(x)``.

    Args:
        y: Tokens ``(N, L, C)``.
        x: Tokens ``(N, L, C)``.
        scale: :class:`LayerScale`, or another layer.
    """
    if _add_natively(y, x, scale):
        own = _own(scale)
        return _AddCross.apply(y, x, own.scale[None], own.shift, (x.shape[1], 1))
    return y + scale(x)


def _own(scale: nn.Module) -> LayerScale:
    return cast(LayerScale, scale)


def _add_natively(y: Tensor, x: Tensor, *scales: nn.Module) -> bool:
    if not scales or not trains_tokens_natively(y, x) or y.shape != x.shape:
        return False
    own = all(type(scale) is LayerScale and is_plain(scale) for scale in scales)
    return own and are_float32(*scales)


@lru_cache(maxsize=64)
def _windows(kernels: tuple[tuple[int, int], ...]) -> Tensor:
    """Return what each kernel's factor adds to each tap of a cross, ``(4 r + 1, kernels)``."""
    reach = max(max(kernel) // 2 for kernel in kernels)
    columns = []
    for height, width in kernels:
        far = torch.arange(1, reach + 1)[:, None]
        reaches = torch.tensor([[height // 2, height // 2, width // 2, width // 2]])
        inside = torch.cat([torch.ones(1), (far <= reaches).flatten().float()])
        columns.append(inside / (height * width))
    return torch.stack(columns, 1)


class _AddCross(torch.autograd.Function):
    """Step ``y + shift + conv(x)`` of :func:`mmesbnn.native.add_cross`, for tokens."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, taps: Tensor, shift: Tensor, size: tuple[int, int]
    ) -> Tensor:
        ctx.size = size
        ctx.save_for_backward(x, taps)
        out = add_cross(
            _pixels(y, size),
            _pixels(x, size),
            taps.detach().numpy(),
            shift.detach().numpy(),
            threads=torch.get_num_threads(),
        )
        return torch.from_numpy(out.reshape(x.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, taps = ctx.saved_tensors
        found = cross_gradients(
            _pixels(grad, ctx.size),
            _pixels(x, ctx.size),
            taps.detach().numpy(),
            threads=torch.get_num_threads(),
        )
        of_x = torch.from_numpy(found.x.reshape(x.shape))
        return grad, of_x, torch.from_numpy(found.taps), torch.from_numpy(found.shift), None


def _pixels(x: Tensor, size: tuple[int, int]) -> Any:
    return x.detach().contiguous().numpy().reshape(len(x), *size, x.shape[2])
