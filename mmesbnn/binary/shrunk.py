"""Shrunk layers: binary layers that read expanded features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.common_types import _size_2_t

from .arguments import checked_layer
from .expansion import Expansion
from .functional import binary_linear
from .inputs import check_tokens
from .layers import BinaryConv2d, BinaryLinear
from .native_conv import native_signed_linear
from .tracing import whole_layer


def shrunk_weight(weight: Tensor, tau: int) -> Tensor:
    """Return the latent weight ``(C_o / tau, C_i tau, ...)`` of a float ``(C_o, C_i, ...)``.

    With ``K = C_o / tau``, output ``j`` of the shrunk layer replaces the outputs
    ``j, j + K, ...`` of the float layer. Its input is ``tau`` copies. Each copy gets the
    kernel of one of these outputs::

        v[j, t C_i + c] = w[j + t K, c] / tau

    The layer therefore starts as an approximation of the mean of these outputs. No weight
    is lost, and the copies differ from the first step on. With ``tau = 1`` the result is
    ``w``.

    Args:
        weight: Float weight.
        tau: ES factor; it divides ``C_o``.
    """
    return torch.cat(weight.chunk(tau), dim=1) / tau


class ShrunkConv2d(BinaryConv2d):
    """Shrunk binary convolution of expanded features.

    It is a :class:`BinaryConv2d` with ``C_i tau g`` inputs, ``C_o / tau`` outputs and
    ``g`` groups. Its weight is ``(C_o / tau, C_i tau, k, k)``. A :class:`TiledBatchNorm2d`
    or :func:`tile` then makes ``tau^2 g`` copies of its output, ``C_o tau g`` channels.

    Args:
        in_channels: ``C_i`` of the replaced convolution; the input has
            ``C_i tau g`` channels.
        out_channels: ``C_o`` of the replaced convolution; the output has ``C_o / tau``
            channels.
        kernel_size: Size of the kernel in pixels.
        stride: Stride in pixels. Default 1.
        padding: Padding on each side in pixels. Default 0.
        dilation: Distance of the kernel's taps in pixels. Default 1.
        bias: Whether to add a real bias. Default False.
        expansion: ES parameters ``tau`` and ``g``.
        **kwargs: ``sign``, ``weight_binarizer``, ``pad_value`` and ``latent_clip`` of
            :class:`BinaryConv2d`.

    Raises:
        ValueError: If ``tau`` does not divide ``out_channels``, or the ES groups do not
            divide ``out_channels / tau``; when called, if the input has another width.

    Shape:
        ``(N, C_i tau g, H, W)`` to ``(N, C_o / tau, H', W')``.

    Source: ES-BNN, figure (b); figure (c) with groups.
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
        bias: bool = False,
        *,
        expansion: Expansion,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels=expansion.width(in_channels),
            out_channels=expansion.kernels(out_channels),
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=expansion.groups,
            bias=bias,
            **kwargs,
        )
        self.expansion = expansion

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, {self.expansion.in_words()}'


class ShrunkLinear(BinaryLinear):
    """Shrunk binary linear layer: :class:`ShrunkConv2d` for tokens.

    Args:
        in_features: ``C_i`` of the replaced layer; the input has ``C_i tau g`` features.
        out_features: ``C_o`` of the replaced layer; the output has ``C_o / tau``
            features.
        bias: Whether to add a real bias. Default False.
        expansion: ES parameters ``tau`` and ``g``.
        **kwargs: ``sign``, ``weight_binarizer`` and ``latent_clip`` of
            :class:`BinaryLinear`.

    Raises:
        ValueError: If ``tau`` does not divide ``out_features``, or the ES groups do not
            divide ``out_features / tau``; when called, if the input has another width.

    Shape:
        ``(..., C_i tau g)`` to ``(..., C_o / tau)``. Weight ``(C_o / tau, C_i tau)``.

    Source: ES-BNN, figures (b) and (c).
    """

    @checked_layer()
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        expansion: Expansion,
        **kwargs: Any,
    ) -> None:
        kernels = expansion.kernels(out_features, 'out_features')
        super().__init__(in_features * expansion.tau, kernels, bias, **kwargs)
        self.expansion = expansion

    @whole_layer
    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input``, ``(..., C_i tau g)``."""
        groups = self.expansion.groups
        check_tokens(self, input, self.in_features * groups)
        y = native_signed_linear(input, None, self.sign, self, groups)
        if y is None:
            inputs = self.sign(input).chunk(groups, dim=-1)
            weights = self.effective_weight().chunk(groups)
            scaled = self.known_scaled
            parts = [binary_linear(*pair, scaled=scaled) for pair in zip(inputs, weights)]
            y = torch.cat(parts, dim=-1) if groups > 1 else parts[0]
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, {self.expansion.in_words()}'
