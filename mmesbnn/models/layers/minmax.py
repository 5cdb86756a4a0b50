"""Min-max quantized convolution and linear layer, for layers that are not binary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.common_types import _size_2_t

from ...binary.arguments import BITS, checked_layer
from ...binary.signs import clip_to, straight_through
from ...binary.tracing import whole_layer

#: Clipping ranges of the published quantised networks.
CONV_CLIP, LINEAR_CLIP = 1000.0, 25.0


def minmax_quantize(x: Tensor, bits: int, clip: float, dims: int = 1) -> Tensor:
    """Round ``x`` to ``2^bits`` evenly spaced levels between its minimum and maximum.

    ``q = round((x - min) / (max - min + 1e-8) * (2^bits - 1))``, then scaled back to the
    range of ``x``. Minimum and maximum are taken over the last ``dims`` axes. The
    gradient is 1 where ``|x| <= clip``, else 0.

    Args:
        x: Tensor of any shape.
        bits: Bits per value.
        clip: Values are first clipped to ``[-clip, clip]``.
        dims: Number of trailing axes that share a range. Default 1.
    """
    x = clip_to(x, -clip, clip)
    axes = tuple(range(-dims, 0))
    low = x.detach().amin(axes, keepdim=True)
    span = x.detach().amax(axes, keepdim=True) - low
    span = span.to(torch.promote_types(x.dtype, torch.float32)) + 1e-8  # 0 in float16
    steps = 2**bits - 1
    value = ((x - low) / span * steps).round() / steps * span + low
    return straight_through(value.to(x.dtype), x)


def quantize_weight(weight: Tensor, bits: int, clip: float) -> Tensor:
    """Quantize a weight in units of twice its mean magnitude per output channel.

    Pointwise kernels and matrices have one range per output channel. Larger kernels
    have one range per kernel slice ``(k_h, k_w)``, as published.

    Args:
        weight: ``(C_o, C_i)`` or ``(C_o, C_i, k_h, k_w)``.
        bits: Bits per weight.
        clip: Clipping range in those units.
    """
    axes = tuple(range(1, weight.dim()))
    scale = 2 * weight.detach().abs().mean(axes, keepdim=True)
    scale = torch.where(scale == 0, 1.0, scale)  # all zero: quantized to zeros
    pointwise = weight[0, 0].numel() == 1
    dims = weight.dim() - 1 if pointwise else 2
    return minmax_quantize(weight / scale, bits, clip, dims) * scale


class MinMaxConv2d(nn.Conv2d):
    """Convolution with min-max quantized weights and, for 1x1 maps, inputs.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel in pixels.
        stride: Stride in pixels. Default 1.
        padding: Zeros added on each side, in pixels. Default 0.
        dilation: Distance of the kernel's taps in pixels. Default 1.
        groups: Number of groups. Default 1.
        bias: Whether to add a bias, which is not quantized. Default True.
        bits: Bits of weights and inputs, 1 to 32. With 32 bits inputs are not
            quantized. Default 8.
        quantize_input: Whether to quantize the input, per image. The input must then be
            1x1 maps. Give False for the stem, whose input images have 8 bits. An input
            of three channels is never quantized, as published. Default True.

    Raises:
        ValueError: If an argument is not one of the allowed values.

    Shape:
        ``(N, C_i, H, W)`` to ``(N, C_o, H', W')`` as ``nn.Conv2d``.

    Source: BNext's quantised variant.
    """

    @checked_layer(bits=BITS)
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _size_2_t,
        stride: _size_2_t = 1,
        padding: _size_2_t = 0,
        dilation: _size_2_t = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        bits: int = 8,
        quantize_input: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.mac_bits = bits
        # the published layer takes any input of three channels for an image, also in
        # squeeze-excite
        self.quantize_input = quantize_input and bits < 32 and self.in_channels != 3

    @whole_layer
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input``, ``(N, C_i, H, W)``."""
        if self.quantize_input:
            input = minmax_quantize(input, self.mac_bits, CONV_CLIP, dims=3)
        weight = quantize_weight(self.weight, self.mac_bits, CONV_CLIP)
        return self._conv_forward(input, weight, self.bias)


class MinMaxLinear(nn.Linear):
    """Linear layer with min-max quantized weights and inputs.

    Inputs are quantized per row, the last axis.

    Args:
        in_features: Features of the input.
        out_features: Features of the output.
        bias: Whether to add a bias, which is not quantized. Default True.
        bits: Bits of weights and inputs, 1 to 32. Default 8.

    Raises:
        ValueError: If an argument is not one of the allowed values.

    Shape:
        ``(..., C_i)`` to ``(..., C_o)``.

    Source: BNext's quantised variant.
    """

    @checked_layer(bits=BITS)
    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, bits: int = 8
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.mac_bits = bits

    @whole_layer
    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input``, ``(..., C_i)``."""
        input = minmax_quantize(input, self.mac_bits, LINEAR_CLIP)
        weight = quantize_weight(self.weight, self.mac_bits, LINEAR_CLIP)
        return F.linear(input, weight, self.bias)
