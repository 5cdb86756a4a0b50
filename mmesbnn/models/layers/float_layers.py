"""Layers of a binary network that are not binary: full precision or a few bits."""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ...binary import Expansion, TiledBatchNorm2d
from ...binary.arguments import NORM, checked_layer
from ...binary.native_training import is_own, trains_natively
from ...binary.unit_steps import normalized
from ...checks import positive_int
from .minmax import MinMaxConv2d
from .pooling import AveragePool, MaxPool


def float_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    groups: int = 1,
    bits: int | None = None,
    **kwargs: Any,
) -> nn.Conv2d:
    """Build a convolution that is not binary: full precision, or ``bits`` if given."""
    args = (in_channels, out_channels, kernel_size)
    if bits is None:
        return nn.Conv2d(*args, groups=groups, **kwargs)
    return MinMaxConv2d(*args, groups=groups, bits=bits, **kwargs)


def convolve_pixel(conv: nn.Module, x: Tensor) -> Tensor:
    """Compute ``conv(x)`` for a map of one pixel.

    Native training takes the matrix product, in half of the time of torch's convolution. It sums in
    another order.

    Args:
        conv: A 1x1 convolution.
        x: Map ``(N, C, 1, 1)``.
    """
    own = is_own(conv, nn.Conv2d) and conv.groups == 1 and conv.training
    if not own or not trains_natively(x):
        return cast(Tensor, conv(x))
    weight, bias = cast(nn.Conv2d, conv).weight, cast(nn.Conv2d, conv).bias
    return F.linear(x.flatten(1), weight.flatten(1), bias)[..., None, None]


class PooledProjection(nn.Module):
    """Shortcut of BNext-18: average pooling, full-precision 1x1 convolution, norm.

    With ``shrink`` there are ``C_o / tau`` kernels of depth ``C_i tau`` in ``g`` groups,
    and their output is tiled.

    Args:
        in_channels: ``C_i`` before expansion.
        out_channels: ``C_o`` before expansion.
        stride: 1, or 2 for 2x2 average pooling first.
        expansion: ES parameters.
        shrink: Whether the kernels shrink.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.
    """

    @checked_layer(norm=NORM)
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expansion: Expansion,
        shrink: bool,
        norm: dict[str, Any],
    ) -> None:
        super().__init__()
        wide = expansion.width(out_channels)
        self.copies = expansion.copies if shrink else 1
        self.pool = AveragePool() if stride == 2 else nn.Identity()
        self.conv = float_conv(
            expansion.width(in_channels),
            expansion.kernels(out_channels) if shrink else wide,
            groups=expansion.groups if shrink else 1,
            bias=False,
        )
        self.norm = TiledBatchNorm2d(wide, self.copies, **norm)

    def forward(self, x: Tensor) -> Tensor:
        """Pool, project and normalize ``x``."""
        return normalized(self.conv(self.pool(x)), self.norm, self.copies)


class Stem(nn.Module):
    """First layers of a network: full-precision convolution, norm, optional max-pool.

    The output of the convolution is tiled to the expanded width.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels before expansion.
        kernel_size: Height and width of the kernel in pixels.
        stride: Stride of the convolution.
        max_pool: Whether a 3x3/2 max-pool follows.
        expansion: ES parameters.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.
        bits: Bits of the kernel; None is full precision. Default None.
    """

    @checked_layer(norm=NORM, kernel_size=positive_int)
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        max_pool: bool,
        expansion: Expansion,
        norm: dict[str, Any],
        bits: int | None = None,
    ) -> None:
        super().__init__()
        options = {} if bits is None else {'bits': bits, 'quantize_input': False}
        self.conv = float_conv(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=False,
            **options,
        )
        self.copies = expansion.factor
        self.norm = TiledBatchNorm2d(expansion.width(out_channels), self.copies, **norm)
        self.pool = MaxPool(3, 2, 1) if max_pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the expanded features of the images ``x``."""
        return self.pool(normalized(self.conv(x), self.norm, self.copies))
