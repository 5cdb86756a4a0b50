"""Shrunk layers: binary layers between expanded features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.common_types import _size_2_t

from .arguments import checked_layer
from .expansion import Expansion, tile
from .functional import binary_linear
from .layers import BinaryConv2d, BinaryLinear


class ESConv2d(BinaryConv2d):
    """Expanding-and-shrinking binary convolution between expanded features.

    A :class:`BinaryConv2d` with ``C_i tau g`` inputs, ``C_o / tau`` outputs and ``g``
    groups, tiled ``tau^2 g`` times. Weight ``(C_o / tau, C_i tau, k, k)``.

    Args:
        in_channels: ``C_i`` of the convolution replaced; the input has
            ``C_i tau g`` channels.
        out_channels: ``C_o`` likewise.
        kernel_size: Size of the kernel in pixels.
        stride: Stride in pixels. Default 1.
        padding: Padding on each side in pixels. Default 0.
        dilation: Distance of the kernel's taps in pixels. Default 1.
        groups: ES groups ``g``. Default 1.
        bias: Whether to add a real bias before tiling. Default False.
        tau: ES factor. Default 1.
        tiled: Whether to tile. False returns the small map, for a
            :class:`TiledBatchNorm2d` to tile. Default True.
        **kwargs: ``sign``, ``weight_binarizer``, ``pad_value`` and ``latent_clip`` of
            :class:`BinaryConv2d`.

    Raises:
        ValueError: If ``tau`` does not divide ``out_channels`` or ``groups`` not
            ``out_channels / tau``.

    Shape:
        ``(N, C_i tau g, H, W)`` to ``(N, C_o tau g, H', W')``, or to
        ``(N, C_o / tau, H', W')`` if not ``tiled``.

    Source: ES-BNN, figure (b), with groups figure (c).
    """

    @checked_layer()
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _size_2_t,
        stride: _size_2_t = 1,
        padding: _size_2_t = 0,
        dilation: _size_2_t = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        tau: int = 1,
        tiled: bool = True,
        **kwargs: Any,
    ) -> None:
        expansion = Expansion(tau, groups)
        super().__init__(
            expansion.width(in_channels),
            expansion.kernels(out_channels),
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            **kwargs,
        )
        self.expansion = expansion
        self.tiled = tiled

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, ``(N, C_i tau g, H, W)``."""
        y = super().forward(x)
        return tile(y, self.expansion.copies) if self.tiled else y


class ESLinear(BinaryLinear):
    """Expanding-and-shrinking binary linear layer: :class:`ESConv2d` for tokens.

    Args:
        in_features: ``C_i`` of the layer replaced; the input has ``C_i tau g``.
        out_features: ``C_o`` likewise.
        bias: Whether to add a real bias before tiling. Default False.
        tau: ES factor. Default 1.
        groups: ES groups ``g``. Default 1.
        tiled: Whether to tile the output. Default True.
        **kwargs: ``sign``, ``weight_binarizer`` and ``latent_clip`` of
            :class:`BinaryLinear`.

    Raises:
        ValueError: If ``tau`` does not divide ``out_features`` or ``groups`` not
            ``out_features / tau``.

    Shape:
        ``(..., C_i tau g)`` to ``(..., C_o tau g)``, or to ``(..., C_o / tau)`` if not
        ``tiled``. Weight ``(C_o / tau, C_i tau)``.

    Source: ES-BNN, figures (b) and (c).
    """

    @checked_layer()
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        tau: int = 1,
        groups: int = 1,
        tiled: bool = True,
        **kwargs: Any,
    ) -> None:
        expansion = Expansion(tau, groups)
        kernels = expansion.kernels(out_features, 'out_features')
        super().__init__(in_features * tau, kernels, bias, **kwargs)
        self.expansion = expansion
        self.tiled = tiled

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, ``(..., C_i tau g)``."""
        groups = self.expansion.groups
        inputs = self.sign(x).chunk(groups, dim=-1)
        weights = self.effective_weight().chunk(groups)
        parts = [binary_linear(*pair) for pair in zip(inputs, weights)]
        y = torch.cat(parts, dim=-1) if groups > 1 else parts[0]
        if self.bias is not None:
            y = y + self.bias
        return tile(y, self.expansion.copies, -1) if self.tiled else y
