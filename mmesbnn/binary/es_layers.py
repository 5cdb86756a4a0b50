"""ES layers in the place of ``nn.Conv2d`` and ``nn.Linear``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.common_types import _size_2_t

from .arguments import checked_layer
from .expansion import Expansion, like_layout, spread_thresholds, tile
from .shrunk import ESConv2d, ESLinear

#: Wider than this a drop-in layer refuses to be: a network that passes its own
#: ``groups=32`` means a grouped convolution, not 32-fold expansion.
MAX_DROP_IN_FACTOR = 16


def _check_drop_in(expansion: Expansion, in_channels: int) -> None:
    if expansion.factor > MAX_DROP_IN_FACTOR:
        raise ValueError(
            f'tau={expansion.tau}, groups={expansion.groups}: a drop-in layer widens '
            f'its {in_channels} inputs at most {MAX_DROP_IN_FACTOR} times; if the '
            'network asked for a grouped or depthwise convolution, ES cannot replace it'
        )


class _DropIn(nn.Module):
    """A layer whose weight has another shape and meaning than that of the replaced."""

    #: Where the binary layer is.
    inner: str

    def __getattr__(self, name: str) -> Any:
        if name == 'weight':
            raise AttributeError(
                f'{type(self).__name__} has no weight that others could multiply with: '
                f'its latent weight is {self.inner}.weight, for signs of shifted '
                'inputs. Keep a layer whose weight is read from outside: '
                'binarize(..., keep=NAME)'
            )
        return super().__getattr__(name)


class DropInESConv2d(_DropIn):
    """ES convolution from ``C_i`` to ``C_o`` channels, in the place of ``nn.Conv2d``.

    The input is tiled ``tau g`` times, every copy with thresholds of its own, which
    start apart; an :class:`ESConv2d` turns them into ``C_o / tau`` channels, tiled
    ``tau`` times to ``C_o``; copies of an output differ by the affine of the norm that
    follows, or by ``bias``. Binary multiplications are those of the convolution
    replaced. Dense convolutions become one with ``conv_cfg=dict(type='ESConv2d')``, see
    :func:`mmesbnn.models.layers.es_conv2d`::

        conv_cfg = dict(type='ESConv2d', tau=2, groups=1)

    Networks that build through mmcv's ``ConvModule`` pass a ``groups`` of their own;
    for those write ``es_groups``.

    Args:
        in_channels: ``C_i``.
        out_channels: ``C_o``.
        kernel_size: Size of the kernel in pixels.
        stride: Stride in pixels. Default 1.
        padding: Padding on each side in pixels. Default 0.
        dilation: Distance of the kernel's taps in pixels. Default 1.
        groups: ES groups ``g``. Default 1.
        bias: Whether to add a real bias to the ``C_o`` outputs. Default False.
        tau: ES factor. Default 1.
        es_groups: ES groups under another name; ``groups`` must then be 1.
        spread: Initial thresholds lie evenly in ``[-spread, spread]``. Default 0.5, for
            inputs of about unit variance.
        sign: As :class:`BinaryConv2d`'s. Default ``'quadratic'``.
        **kwargs: ``weight_binarizer``, ``pad_value`` and ``latent_clip`` of
            :class:`BinaryConv2d`.

    Raises:
        ValueError: If ``tau`` or ``groups`` do not divide, or widen more than 16 times;
            if ``groups`` and ``es_groups`` are both given.

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
        es_groups: int | None = None,
        spread: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if es_groups is not None:
            if groups != 1:
                raise ValueError(
                    f'groups={groups}, es_groups={es_groups}: ES replaces dense convolutions only'
                )
            groups = es_groups
            if out_channels % tau == 0 and out_channels // tau % groups:
                raise ValueError(
                    f'es_groups={groups} does not divide out_channels / tau = '
                    f'{out_channels} / {tau}'
                )
        self.expansion = expansion = Expansion(tau, groups)
        _check_drop_in(expansion, in_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.shift = nn.Parameter(spread_thresholds(in_channels, expansion.factor, spread))
        self.conv = ESConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            tau=tau,
            tiled=False,
            **kwargs,
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        for name in ('kernel_size', 'stride', 'padding', 'dilation', 'groups'):
            setattr(self, name, getattr(self.conv, name))

    def init_weights(self) -> None:
        """Keep the initialisation of construction (mmcv's would not fit)."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, ``(N, C_i, H, W)``."""
        shifted = x.unsqueeze(1) + self.shift.view(-1, x.shape[1], 1, 1)
        expanded = like_layout(shifted.flatten(1, 2), x)
        y = tile(self.conv(expanded), self.expansion.tau)
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)


class DropInESLinear(_DropIn):
    """ES linear layer from ``C_i`` to ``C_o`` features, in the place of ``nn.Linear``.

    :class:`DropInESConv2d` for tokens. Registered as ``ESLinear``.

    Args:
        in_features: ``C_i``.
        out_features: ``C_o``.
        bias: Whether to add a real bias to the ``C_o`` outputs. Default True, as
            ``nn.Linear``.
        tau: ES factor. Default 1.
        groups: ES groups ``g``. Default 1.
        spread: Initial thresholds lie evenly in ``[-spread, spread]``. Default 0.5.
        **kwargs: ``sign``, ``weight_binarizer`` and ``latent_clip`` of
            :class:`BinaryLinear`.

    Raises:
        ValueError: If ``tau`` or ``groups`` do not divide, or widen more than 16 times.

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
        groups: int = 1,
        spread: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.expansion = expansion = Expansion(tau, groups)
        _check_drop_in(expansion, in_features)
        self.in_features = in_features
        self.out_features = out_features
        self.shift = nn.Parameter(spread_thresholds(in_features, expansion.factor, spread))
        self.linear = ESLinear(
            in_features, out_features, tau=tau, groups=groups, tiled=False, **kwargs
        )
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, ``(..., C_i)``."""
        expanded = tile(x, self.expansion.factor, -1) + self.shift
        y = tile(self.linear(expanded), self.expansion.tau, -1)
        return y if self.bias is None else y + self.bias
