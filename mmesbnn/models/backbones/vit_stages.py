"""Parts of BinaryViT: patch embedding, transitions between stages, blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...binary import (
    BinaryFeedForward,
    BinaryMultiheadAttention,
    Expansion,
    LearnableShift,
    RPReLU,
    ShrunkConv2d,
    TiledBatchNorm2d,
    tile,
)
from ...binary.block_means import block_mean
from ...binary.expansion import spread_thresholds
from ...binary.tokens import map_of, tokens_of
from ...binary.tracing import whole_layer
from ...binary.unit_steps import normalized, normalized_tokens
from ..layers.branches import LayerScale, PoolBranches, add_scaled

#: Initial factors of the main branches.
SCALE = 0.1


class Positions(nn.Module):
    """Position embedding ``y = x + p`` with a learnable ``p`` per channel and pixel.

    ``p`` starts as truncated N(0, 0.02^2). For a map of another size it is interpolated
    (bicubic).

    Args:
        channels: Channels of the map.
        size: Height and width of the map.
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, *size))
        nn.init.trunc_normal_(self.bias, std=0.02)

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Add the positions to the map ``x``; the result has its tokens in order."""
        bias: Tensor = self.bias
        if bias.shape[2:] != x.shape[2:]:
            bias = F.interpolate(bias, x.shape[2:], mode='bicubic')
        return (x + bias).contiguous(memory_format=torch.channels_last)


class PatchStem(nn.Module):
    """Full-precision patch embedding: convolution, tiling, norm, position embedding.

    Args:
        in_channels: Channels of the image.
        out_channels: ``C``, channels before expansion.
        patch_size: Kernel and stride of the convolution.
        size: Height and width of the output.
        expansion: ES parameters of the stream.
        has_norm: Whether there is a norm.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch_size: int,
        size: tuple[int, int],
        expansion: Expansion,
        has_norm: bool,
        norm: dict[str, Any],
    ) -> None:
        super().__init__()
        wide, self.copies = expansion.width(out_channels), expansion.tau
        self.conv = nn.Conv2d(in_channels, out_channels, patch_size, patch_size)
        self.norm = TiledBatchNorm2d(wide, self.copies, **norm) if has_norm else None
        self.positions = Positions(wide, size)

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Compute the first map of the images ``x``."""
        x = self.conv(x)
        if self.norm is None:
            return self.positions(tile(x, self.copies))
        return self.positions(normalized(x, self.norm, self.copies))


class PatchMerging(nn.Module):
    """Transition between two stages: it halves the resolution and adds channels.

    With ``n = norm_1(x)`` and ``P`` the 2x2 average pooling::

        y = rprelu(norm_2(tile(binary_conv2x2/2(n + b))) + tile(P(n))) + positions

    or, in full precision, ``y = norm_2(tile(conv2x2/2(n))) + positions``. With ``tau >
    1`` all features have ``C tau`` channels.

    Args:
        in_channels: ``C_i`` before expansion.
        out_channels: ``C_o`` before expansion, a multiple of ``C_i``.
        size: Height and width of the output.
        expansion: ES parameters of the stream.
        full_precision: Whether the convolution is full precision instead of binary.
        spread: Initial thresholds of copies lie evenly in ``[-spread, spread]``.
        sign: Sign of the input, see :func:`mmesbnn.binary.build_sign`.
        weight_binarizer: As :class:`BinaryConv2d`'s.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.

    Source: Le and Li, "BinaryViT"; ``full_precision`` is the option ``--some-fp`` of its
    code.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        expansion: Expansion,
        full_precision: bool,
        spread: float,
        sign: Any,
        weight_binarizer: Any,
        norm: dict[str, Any],
    ) -> None:
        super().__init__()
        wide_in, wide = expansion.width(in_channels), expansion.width(out_channels)
        self.copies, self.widening = expansion.copies, out_channels // in_channels
        self.norm_in = TiledBatchNorm2d(wide_in, **norm)
        self.full_precision = full_precision
        if full_precision:
            kernels = expansion.kernels(out_channels)
            self.conv = nn.Conv2d(wide_in, kernels, 2, 2, bias=False)
        else:
            self.shift = LearnableShift(wide_in)
            with torch.no_grad():
                start = spread_thresholds(in_channels, expansion.tau, spread)
                self.shift.bias.copy_(start.view(1, -1, 1, 1))
            self.conv = ShrunkConv2d(
                in_channels,
                out_channels,
                2,
                2,
                expansion=expansion,
                sign=sign,
                weight_binarizer=weight_binarizer,
            )
            self.act = RPReLU(wide)
        self.norm = TiledBatchNorm2d(wide, self.copies, **norm)
        self.positions = Positions(wide, size)

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Compute the first map of the next stage."""
        x = normalized(x, self.norm_in)
        y = self.conv(x if self.full_precision else self.shift(x))
        y = normalized(y, self.norm, self.copies)
        if not self.full_precision:
            y = self.act(y + tile(block_mean(x, 2), self.widening))
        return self.positions(y)


class BinaryViTBlock(nn.Module):
    """Transformer block: attention, then a feed-forward with parallel pooling branches.

    With norms ``u`` and layer scales ``LS``::

        x = x + LS_1(attention(u_1(x)))
        y = x + LS_2(ffn(u_2(x))) + sum_k LS_k(P_k(u_2(x)))

    Args:
        channels: ``C``, channels before expansion.
        heads: Heads of the attention.
        ffn_dims: Hidden channels of the feed-forward.
        sr_ratio: Factor by which keys and values are coarser than queries.
        expansion: ES parameters of the stream.
        ffn: ES parameters of the feed-forward.
        layer_scale: Whether to use ``LS_1`` and ``LS_2``.
        pool_sizes: Sizes of the pooling branches.
        residual_pool: As :class:`BinaryFeedForward`'s.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.
        **unit: ``spread``, ``sign`` and ``weight_binarizer`` of both parts.

    Shape:
        ``(N, C, H, W)`` to the same, times ``tau`` if the stream is expanded.
    """

    # its seven linear layers are of five kinds, and take most of the time of a block
    compiled_in_parts = True

    def __init__(
        self,
        channels: int,
        heads: int,
        ffn_dims: int,
        sr_ratio: int,
        *,
        expansion: Expansion,
        ffn: Expansion,
        layer_scale: bool,
        pool_sizes: Sequence[int],
        residual_pool: str,
        norm: dict[str, Any],
        **unit: Any,
    ) -> None:
        super().__init__()

        def scale() -> nn.Module:
            return LayerScale(wide, SCALE) if layer_scale else nn.Identity()

        wide, unit = expansion.width(channels), dict(unit, norm=norm)
        self.norm1 = TiledBatchNorm2d(wide, **norm)
        self.attention = BinaryMultiheadAttention(channels, heads, sr_ratio, expansion.tau, **unit)
        self.scale1 = scale()
        self.norm2 = TiledBatchNorm2d(wide, **norm)
        self.ffn = BinaryFeedForward(
            channels,
            ffn_dims,
            ffn.tau,
            expanded=expansion.tau > 1,
            residual_pool=residual_pool,
            es_groups=ffn.groups,
            **unit,
        )
        self.scale2 = scale()
        self.branches = PoolBranches(wide, pool_sizes)

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output for the map ``x``."""
        size = (x.shape[2], x.shape[3])
        x = tokens_of(x)
        attended = self.attention(normalized_tokens(x, self.norm1), size)
        x = add_scaled(x, attended, self.scale1)
        normed = normalized_tokens(x, self.norm2)
        x = add_scaled(x, self.ffn(normed), self.scale2)
        return map_of(self.branches(x, normed, size), size)
