"""Building block of BNext: a binary convolution with a residual and a gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...binary import Expansion, LearnableShift, ShrunkConv2d, TiledBatchNorm2d, tile
from ...binary.arguments import NORM, RULES, checked_layer
from ...binary.native_training import trains_natively
from ...binary.position_means import position_mean
from ...binary.prelus import ChannelPReLU
from ...binary.unit_steps import activated_norm, gated_norm, shifted_conv
from ...checks import each, mapping, one_of, optional, positive_int
from .float_layers import PooledProjection, convolve_pixel, float_conv
from .pooling import AveragePool, activated_pool, keeps_mean

#: Keyword arguments of :class:`ShrunkConv2d` that a block sets.
CONV = each(
    mapping((), ['sign', 'weight_binarizer', 'pad_value', 'latent_clip']),
    **{name: RULES[name] for name in ('sign', 'weight_binarizer', 'pad_value')},
    latent_clip=RULES['latent_clip'],
)


class SqueezeExcite(nn.Module):
    """Channel gate ``sigmoid(E relu(S mean(x)))`` with full-precision 1x1 kernels.

    With ``shrink`` both kernels follow the ES arithmetic: ``S: C tau g -> (C/r)/tau`` and
    ``E: (C/r) tau g -> C/tau``, in ``g`` groups, and each output is tiled ``tau^2 g``
    times. The cost is then that of ``tau = 1``. Without ``shrink`` the kernels are
    ``S: C tau g -> C/r`` and ``E: C/r -> C tau g``, at ``tau g`` times the cost.

    Args:
        channels: ``C``, channels before expansion.
        expansion: ES parameters.
        shrink: Whether the kernels shrink.
        ratio: ``r``, the reduction of channels.
        bits: Bits of the kernels; None is full precision. Default None.

    Raises:
        ValueError: If ``ratio`` leaves no channel, or ``tau`` or ``groups`` do not
            divide.

    Shape:
        ``(N, C tau g, H, W)`` to ``(N, C tau g, 1, 1)``.
    """

    @checked_layer(ratio=positive_int)
    def __init__(
        self, channels: int, expansion: Expansion, shrink: bool, ratio: int, bits: int | None = None
    ) -> None:
        super().__init__()
        middle = channels // ratio if ratio > 0 else 0
        if middle < 1:
            raise ValueError(f'se_ratio={ratio} leaves no channel of channels={channels}')
        wide = expansion.width(channels)
        if shrink:
            name = f'channels // se_ratio = {channels} // {ratio}'
            squeezed = expansion.kernels(middle, name)
            self.copies, groups = expansion.copies, expansion.groups
            sizes = (
                (wide, squeezed),
                (expansion.width(middle), expansion.kernels(channels, 'channels')),
            )
        else:
            self.copies, groups = 1, 1
            sizes = ((wide, middle), (middle, wide))
        self.squeeze = float_conv(*sizes[0], groups=groups, bits=bits)
        self.excite = float_conv(*sizes[1], groups=groups, bits=bits)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gate of ``x``."""
        x = tile(convolve_pixel(self.squeeze, position_mean(x)), self.copies).relu()
        return tile(convolve_pixel(self.excite, x), self.copies).sigmoid()


class RecoupledConv(nn.Module):
    """Binary convolution with a residual and a gate. BNext consists of such modules.

    With ``P`` the 2x2 average pooling (stride 2) or the identity::

        r = P(prelu_1(x)) if elementwise else P(x)            (or a projection of it)
        y = prelu_2(norm_1(binary_conv(sign(x + b))))
        m = a s + (1 - a) y,   s = r if mix_residual else P(x)
        z = gate(m) y          (times r if elementwise)
        out = r + norm_2(z)

    The published code has three classes for it: Attention (``elementwise``), FFN_3x3 and
    FFN_1x1. ``a`` starts at 0.5; ``ParameterBoundsHook`` keeps it in [0, 1].

    Args:
        channels: Input channels before expansion.
        kernel_size: 3 or 1.
        stride: 1 or 2.
        out_channels: Output channels before expansion. Default None: ``channels``.
        elementwise: Whether to multiply the gated map with the residual. Default False.
        mix_residual: Whether the gate mixes ``r`` (BNext-18) or ``P(x)``. Default False.
        expansion: ES parameters.
        shrink: Whether gate and projection follow the ES arithmetic.
        se_ratio: Reduction of channels in the gate.
        se_bits: Bits of the gate's kernels; None is full precision.
        conv: Keyword arguments of :class:`ShrunkConv2d`.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.

    Raises:
        ValueError: If ``tau`` or ``groups`` do not divide the channels, or if the gate
            would mix ``P(x)`` with a ``y`` of a different width.

    Shape:
        ``(N, C tau g, H, W)`` to ``(N, C_o tau g, ceil(H / stride), ...)``.

    Source: Guo et al., "BNext" (2022), figure 4. The formulas are those of its code.
    """

    parameter_bounds = {'mix': (0.0, 1.0)}

    @checked_layer(
        kernel_size=one_of(1, 3),
        stride=one_of(1, 2),
        out_channels=optional(positive_int),
        se_ratio=positive_int,
        conv=CONV,
        norm=NORM,
    )
    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        out_channels: int | None = None,
        *,
        elementwise: bool = False,
        mix_residual: bool = False,
        expansion: Expansion,
        shrink: bool,
        se_ratio: int,
        se_bits: int | None,
        conv: dict[str, Any],
        norm: dict[str, Any],
    ) -> None:
        super().__init__()
        given = 'channels' if out_channels is None else 'out_channels'
        out_channels = channels if out_channels is None else out_channels
        if se_ratio > out_channels:
            raise ValueError(f'se_ratio={se_ratio} leaves no channel of {given}={out_channels}')
        if out_channels != channels and elementwise and not mix_residual:
            raise ValueError(
                f'out_channels={out_channels}, not channels={channels}, needs '
                'mix_residual=True: only the residual is projected, and mix_residual='
                'False mixes the unprojected input'
            )
        wide_in, wide = expansion.width(channels), expansion.width(out_channels)
        self.elementwise = elementwise
        self.mix_residual = mix_residual
        self.copies = expansion.copies
        self.act_in = ChannelPReLU(wide_in) if elementwise else nn.Identity()
        self.pool = AveragePool() if stride == 2 else nn.Identity()
        self.projection = None
        if out_channels != channels:
            self.projection = PooledProjection(
                channels, out_channels, stride, expansion, shrink, norm
            )
        self.shift = LearnableShift(wide_in)
        self.conv = ShrunkConv2d(
            channels,
            out_channels,
            kernel_size,
            stride,
            kernel_size // 2,
            expansion=expansion,
            **conv,
        )
        nn.init.normal_(self.conv.weight, std=0.001)
        self.norm1 = TiledBatchNorm2d(wide, self.copies, **norm)
        self.act = ChannelPReLU(wide)
        self.mix = nn.Parameter(torch.full((1, wide, 1, 1), 0.5))
        self.se = SqueezeExcite(out_channels, expansion, shrink, se_ratio, se_bits)
        self.norm2 = TiledBatchNorm2d(wide, **norm)

    def _residual(self, x: Tensor) -> Tensor:
        if self.projection is None:
            return activated_pool(x, self.act_in, self.pool)
        return self.projection(self.act_in(x))

    def _gates_by_mean_of(self, x: Tensor) -> bool:
        """Return whether the map ``s`` of the gate has the mean of ``x``, in native training."""
        if self.projection is not None or (self.elementwise and self.mix_residual):
            return False
        return self.training and trains_natively(x) and keeps_mean(self.pool, x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output for ``x``."""
        convolved, x, source = shifted_conv(
            x, self.shift, self.conv, with_mean=self._gates_by_mean_of(x)
        )
        residual = self._residual(x)
        y, mean = activated_norm(convolved, self.norm1, self.act, self.copies)
        if source is None:
            # if there is no PReLU and no projection, the pooled input is the residual
            same = self.mix_residual or not self.elementwise
            source = position_mean(residual if same else self.pool(x))
        # the mean of a mixture is the mixture of the means, which are small
        gate = self.se(self.mix * source + (1 - self.mix) * mean)
        return gated_norm(y, gate, residual, self.norm2, multiplies=self.elementwise)
