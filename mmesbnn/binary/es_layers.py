"""ES layers that replace ``nn.Conv2d`` and ``nn.Linear``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.common_types import _size_2_t

from .arguments import checked_layer
from .expansion import Expansion, like_layout, one_sided_thresholds, tile
from .inputs import check_maps, check_tokens
from .shrunk import ShrunkConv2d, ShrunkLinear, shrunk_weight
from .tracing import whole_layer


class _ESLayer(nn.Module):
    """Base of the ES layers, whose latent weight belongs to the shrunk layer inside.

    An ES layer also loads the state dict of the float layer that it replaces: the weight becomes
    its latent weight, as :func:`~mmesbnn.binary.shrunk.shrunk_weight` says.
    """

    #: Attribute that holds the shrunk layer.
    inner: str
    expansion: Expansion

    def __getattr__(self, name: str) -> Any:
        if name == 'weight':
            raise AttributeError(
                f'{type(self).__name__} has no weight that other modules could multiply '
                f'with: its latent weight is {self.inner}.weight, for signs of shifted '
                'inputs. If another module reads the weight of a layer, keep that layer '
                'real: binarize(..., keep=NAME). fuse_qkv_projections of diffusers reads '
                'weights, so it cannot fuse binary attention'
            )
        return super().__getattr__(name)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        weight: Any = state.get(f'{prefix}weight')
        latent = f'{prefix}{self.inner}.weight'
        is_float = isinstance(weight, Tensor) and weight.dim() > 0 and latent not in state
        if is_float and len(weight) % self.expansion.tau == 0:
            del state[f'{prefix}weight']
            state[latent] = shrunk_weight(weight, self.expansion.tau)
        super()._load_from_state_dict(state, prefix, *args)


class ESConv2d(_ESLayer):
    """ES convolution from ``C_i`` to ``C_o`` channels, a replacement of ``nn.Conv2d``.

    The input is tiled ``tau g`` times. Each copy has its own thresholds, which start at
    different values. A :class:`ShrunkConv2d` computes ``C_o / tau`` channels from the
    copies. Its output is tiled ``tau`` times to ``C_o`` channels. Copies of an output
    differ by the affine of the following norm, or by ``bias``. The gains of that norm
    start at +-1 with :func:`~mmesbnn.binary.start_copies`. The number of binary
    multiplications is that of the float convolution::

        layer = ESConv2d(64, 128, 3, padding=1, tau=2)
        y = layer(torch.randn(1, 64, 8, 8))  # (1, 128, 8, 8)

    A network of OpenMMLab uses it through ``conv_cfg=dict(type='ESConv2d', tau=2)``, see
    :func:`mmesbnn.models.layers.es_conv2d`.

    Args:
        in_channels: ``C_i``.
        out_channels: ``C_o``.
        kernel_size: Size of the kernel in pixels.
        stride: Stride in pixels. Default 1.
        padding: Padding on each side in pixels. Default 0.
        dilation: Distance of the kernel's taps in pixels. Default 1.
        groups: Groups as in ``nn.Conv2d``. Must be 1, because ES replaces dense
            convolutions only. Default 1.
        bias: Whether to add a real bias to the ``C_o`` outputs. Default False.
        tau: ES factor. Default 1.
        es_groups: ES groups ``g``. Default 1.
        spread: Initial thresholds lie evenly in ``[0, 2 spread]``, so that a copy of what
            a ReLU gives is not +1 everywhere. Default 0.5, for inputs of about unit
            variance.
        **kwargs: ``sign``, ``weight_binarizer``, ``pad_value`` and ``latent_clip`` of
            :class:`BinaryConv2d`.

    Raises:
        ValueError: If ``tau`` does not divide ``out_channels``, if ``es_groups`` does not
            divide ``out_channels / tau``, or if ``groups`` is not 1; when called, if the
            input has another width.

    Shape:
        ``(N, C_i, H, W)`` to ``(N, C_o, H', W')``.
    """

    inner = 'conv'
    transposed = False
    output_padding = (0, 0)

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
        es_groups: int = 1,
        spread: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if groups != 1:
            raise ValueError(
                f'groups={groups} must be 1: ES replaces dense convolutions, but neither '
                'grouped nor depthwise ones; the groups of ES are es_groups'
            )
        self.expansion = expansion = Expansion(tau, es_groups)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.shift = nn.Parameter(one_sided_thresholds(in_channels, expansion.factor, spread))
        self.conv = ShrunkConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            expansion=expansion,
            **kwargs,
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        for name in ('kernel_size', 'stride', 'padding', 'dilation'):
            setattr(self, name, getattr(self.conv, name))

    def init_weights(self) -> None:
        """Keep the initialisation of construction; mmcv's does not suit this layer."""

    @whole_layer
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input``, ``(N, C_i, H, W)``."""
        check_maps(self, input, self.in_channels)
        shifted = input.unsqueeze(1) + self.shift.view(-1, input.shape[1], 1, 1)
        expanded = like_layout(shifted.flatten(1, 2), input)
        y = tile(self.conv(expanded), self.expansion.tau)
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        return f'{self.in_channels}, {self.out_channels}, {self.expansion.in_words()}'


class ESLinear(_ESLayer):
    """ES linear layer from ``C_i`` to ``C_o`` features, a replacement of ``nn.Linear``.

    It is the counterpart of :class:`ESConv2d` for tokens, registered as ``ESLinear``.

    Args:
        in_features: ``C_i``.
        out_features: ``C_o``.
        bias: Whether to add a real bias to the ``C_o`` outputs. Default True, as
            ``nn.Linear``.
        tau: ES factor. Default 1.
        es_groups: ES groups ``g``. Default 1.
        spread: Initial thresholds lie evenly in ``[0, 2 spread]``. Default 0.5.
        **kwargs: ``sign``, ``weight_binarizer`` and ``latent_clip`` of
            :class:`BinaryLinear`.

    Raises:
        ValueError: If ``tau`` does not divide ``out_features``, or ``es_groups`` does not
            divide ``out_features / tau``; when called, if the input has another width.

    Shape:
        ``(..., C_i)`` to ``(..., C_o)``.
    """

    inner = 'linear'

    @checked_layer()
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        tau: int = 1,
        es_groups: int = 1,
        spread: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.expansion = expansion = Expansion(tau, es_groups)
        self.in_features = in_features
        self.out_features = out_features
        self.shift = nn.Parameter(one_sided_thresholds(in_features, expansion.factor, spread))
        self.linear = ShrunkLinear(in_features, out_features, expansion=expansion, **kwargs)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @whole_layer
    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input``, ``(..., C_i)``."""
        check_tokens(self, input, self.in_features)
        expanded = tile(input, self.expansion.factor, -1) + self.shift
        y = tile(self.linear(expanded), self.expansion.tau, -1)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f'{self.in_features}, {self.out_features}, {self.expansion.in_words()}'
