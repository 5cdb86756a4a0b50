"""Min-max quantized convolution and linear layer, for the few non-binary ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...binary.arguments import BITS, checked_layer
from ...binary.signs import straight_through

#: Clipping ranges of the published quantised networks.
CONV_CLIP, LINEAR_CLIP = 1000.0, 25.0


def minmax_quantize(x: Tensor, bits: int, clip: float, dims: int = 1) -> Tensor:
    """Round ``x`` to ``2^bits`` evenly spaced levels between its minimum and maximum.

    ``q = round((x - min) / (max - min + 1e-8) * (2^bits - 1))``, scaled back; minimum
    and maximum over the last ``dims`` axes. The gradient is 1 where ``|x| <= clip``.

    Args:
        x: Tensor of any shape.
        bits: Bits per value.
        clip: Values beyond ``+-clip`` are clipped first.
        dims: How many trailing axes share a range. Default 1.
    """
    x = x.clamp(-clip, clip)
    axes = tuple(range(-dims, 0))
    low = x.detach().amin(axes, keepdim=True)
    span = x.detach().amax(axes, keepdim=True) - low
    span = span.to(torch.promote_types(x.dtype, torch.float32)) + 1e-8  # 0 in float16
    steps = 2**bits - 1
    value = ((x - low) / span * steps).round() / steps * span + low
    return straight_through(value.to(x.dtype), x)


def quantize_weight(weight: Tensor, bits: int, clip: float) -> Tensor:
    """Quantize a weight in units of twice its mean magnitude per output channel.

    Pointwise kernels and matrices share one range per output channel, larger kernels
    have one per kernel slice ``(k_h, k_w)``, as published.

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
        *args: As ``nn.Conv2d``.
        bits: Bits of weights and inputs; inputs stay real at 32 bits. Default 8.
        quantize_input: Whether inputs are quantized, per image. They must be 1x1 maps
            then. False for image stems, whose input has 8 bits anyway. Default True.
        **kwargs: As ``nn.Conv2d``.

    Shape:
        As ``nn.Conv2d``.

    Source: BNext's quantised variant.
    """

    @checked_layer(bits=BITS)
    def __init__(
        self, *args: Any, bits: int = 8, quantize_input: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.mac_bits = bits
        # the published layer takes three channels for an image, in squeeze-excite too
        self.quantize_input = quantize_input and bits < 32 and self.in_channels != 3

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, ``(N, C_i, H, W)``."""
        if self.quantize_input:
            x = minmax_quantize(x, self.mac_bits, CONV_CLIP, dims=3)
        weight = quantize_weight(self.weight, self.mac_bits, CONV_CLIP)
        return self._conv_forward(x, weight, self.bias)


class MinMaxLinear(nn.Linear):
    """Linear layer with min-max quantized weights and inputs.

    Args:
        *args: As ``nn.Linear``.
        bits: Bits of weights and inputs. Default 8.
        **kwargs: As ``nn.Linear``.

    Shape:
        As ``nn.Linear``; inputs are quantized per row.

    Source: BNext's quantised variant.
    """

    @checked_layer(bits=BITS)
    def __init__(self, *args: Any, bits: int = 8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mac_bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, ``(..., C_i)``."""
        x = minmax_quantize(x, self.mac_bits, LINEAR_CLIP)
        weight = quantize_weight(self.weight, self.mac_bits, LINEAR_CLIP)
        return F.linear(x, weight, self.bias)
