"""BNext and ES-BNext."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn

from ...binary.entries import WEIGHT_BINARIZERS, with_zero
from ...binary.joins import join_channels
from ...binary.prelus import ChannelPReLU
from ...checks import one_of, optional, positive
from ..layers.recoupled_conv import RecoupledConv
from .base import BackboneOptions, ESBackbone, Final, checked_backbone
from .pyramid import MOBILE, block_settings, make_stem, resolve_arch, stage_widths, unit_settings

ARCHS: dict[str, dict[str, Any]] = {
    'tiny': MOBILE,
    'small': dict(channels=[48, 96, *[192] * 2, *[384] * 2, *[768] * 6, *[1536] * 2]),
    'middle': dict(channels=[48, 96, *[192] * 4, *[384] * 4, *[768] * 8, *[1536] * 4]),
    'large': dict(channels=[64, 128, *[256] * 4, *[512] * 4, *[1024] * 16, *[2048] * 4]),
    '18': dict(channels=[64, 64, 128, 256, 512], depths=[2, 2, 2, 2]),
}

#: Sign of the published networks.
SIGN = dict(type='hard_tanh', clip=1.5)

#: Temperature below which BNext-18's weights are their signs (T/S/M/L: 1e-7).
BINARY_BELOW_18 = 1e-5


class BNextBlock(nn.Module):
    """Block of a 3x3 module and one 1x1 module, or two 1x1 modules to double the width.

    Args:
        channels: Input channels before expansion.
        stride: 1 or 2.
        elementwise: Whether the 3x3 module multiplies by its residual.
        double: Whether to double the width.
        **unit: Further arguments of :class:`RecoupledConv`.
    """

    @checked_backbone(stride=one_of(1, 2))
    def __init__(
        self, channels: int, stride: int, elementwise: bool, double: bool, **unit: Any
    ) -> None:
        super().__init__()
        self.spatial = RecoupledConv(channels, 3, stride, elementwise=elementwise, **unit)
        self.pointwise = nn.ModuleList(
            RecoupledConv(channels, 1, **unit) for _ in range(2 if double else 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output for ``x``, ``(N, C tau g, H, W)``."""
        x = self.spatial(x)
        return join_channels([unit(x) for unit in self.pointwise])


class BNext18Block(nn.Sequential):
    """Block of two 3x3 modules; the first changes width and resolution.

    Args:
        channels: Input channels before expansion.
        out_channels: Output channels before expansion.
        stride: 1 or 2.
        **unit: Further arguments of :class:`RecoupledConv`.
    """

    @checked_backbone(stride=one_of(1, 2))
    def __init__(self, channels: int, out_channels: int, stride: int, **unit: Any) -> None:
        super().__init__(
            RecoupledConv(channels, 3, stride, out_channels, elementwise=True, **unit),
            RecoupledConv(out_channels, 3, **unit),
        )


@MODELS.register_module()
class BNext(ESBackbone):
    """Backbone BNext, and ES-BNext with ``tau > 1`` or ``groups > 1``.

    It has a stem, blocks of :class:`RecoupledConv`, and a PReLU on the last output.
    Features between the blocks are ``C tau g`` channels wide. Binary multiplications and
    weight bits are those of ``tau = groups = 1``.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'middle'``, ``'large'``, ``'18'``, or a dict, see
            :mod:`mmesbnn.models.backbones.pyramid`. A dict with ``depths`` has the layout
            of BNext-18. The first four have five stages, with strides 2, 4, 8, 16, 32 on
            ImageNet; ``'18'`` has four. Default ``'tiny'``.
        es_mode: With ``'shrunk'`` squeeze-excite and projections follow the ES
            arithmetic, at the cost of ``tau = 1`` (published as ``bnext_rep_ops``). With
            ``'full'`` they have the expanded width (``bnext_rep``). Default ``'shrunk'``.
        out_copies: ``'first'`` or ``'all'``, see :class:`BackboneOptions`. Default None,
            as published: ``'first'`` if ``es_mode='shrunk'``, else ``'all'``.
        in_channels: Channels of the image. Default 3.
        stem_stride: Total stride of the stem: 2 (ImageNet) or 1 (32x32 images). In the
            layout of BNext-18 it is 4 (7x7 convolution and max-pool) or 1. Default None:
            the stride for ImageNet, 2 or 4.
        se_ratio: Reduction of channels in squeeze-excite. Default 8.
        stem_bits: Bits of the stem's kernel (8 in the quantised variant). None is full
            precision. Default None.
        se_bits: Bits of squeeze-excite (8 in the quantised variant). None is full
            precision. Default None.
        sign: Sign of the activations, see :func:`mmesbnn.binary.build_sign`. Default
            ``dict(type='hard_tanh', clip=1.5)``, as published.
        weight_binarizer: Binarizer of the weights, see
            :func:`mmesbnn.binary.build_weight_binarizer`. Only ``'temperature'`` has a
            temperature, which ``TemperatureHook`` lowers; with another one leave the hook
            out. Default ``'temperature'``, as published.
        sign_zero: Value of sign(0): -1, or 0 as in the published code. Default -1.
        latent_clip: Bound of the latent weights' magnitude, applied by
            ``ParameterBoundsHook``. Default 1.5.
        final_act: Whether to apply a PReLU to the last stage's output. The published head
            begins with it. Default True.
        **options: Arguments of :class:`BackboneOptions`, such as ``tau`` and ``groups``.
            Without ``init_cfg`` binary weights start as N(0, 0.001^2).

    Raises:
        ValueError: At construction, if an argument is not one of the allowed values, or
            if ``tau`` or ``groups`` do not divide a width.

    Shape:
        ``(N, in_channels, H, W)`` to a tuple of ``(N, C, H', W')``.

    Source: Guo et al., "BNext", arXiv 2211.12933; Shi et al., "Expanding-and-Shrinking
    Binary Neural Networks", arXiv 2503.23709.
    """

    act: nn.PReLU | None

    @checked_backbone(
        es_mode=one_of('shrunk', 'full'),
        out_copies=optional(one_of('first', 'all')),
        latent_clip=optional(positive),
    )
    def __init__(
        self,
        arch: str | dict[str, Any] = 'tiny',
        *,
        es_mode: str = 'shrunk',
        out_copies: str | None = None,
        in_channels: int = 3,
        stem_stride: int | None = None,
        se_ratio: int = 8,
        stem_bits: int | None = None,
        se_bits: int | None = None,
        sign: Any = SIGN,
        weight_binarizer: Any = 'temperature',
        sign_zero: int = -1,
        latent_clip: float = 1.5,
        final_act: bool = True,
        **options: Any,
    ) -> None:
        shrink = es_mode == 'shrunk'
        common = BackboneOptions.of(
            self, out_copies=out_copies or ('first' if shrink else 'all'), **options
        )
        arch = resolve_arch(arch, ARCHS)
        is_18 = 'depths' in arch
        if is_18:
            weight_binarizer = WEIGHT_BINARIZERS.filled(
                weight_binarizer, binary_below=BINARY_BELOW_18
            )
        unit = dict(
            expansion=common.expansion,
            shrink=shrink,
            se_ratio=se_ratio,
            se_bits=se_bits,
            norm=common.norm,
            conv=dict(with_zero(sign, weight_binarizer, sign_zero), latent_clip=latent_clip),
        )
        super().__init__(
            stem=make_stem(
                arch, in_channels=in_channels, stride=stem_stride, options=common, bits=stem_bits
            ),
            stages=_stages_18(arch, unit) if is_18 else _stages(arch, unit),
            widths=stage_widths(arch),
            options=common,
            final=Final('act', ChannelPReLU if final_act else None),
        )
        self.arch = arch


def _stages(arch: dict[str, Any], unit: dict[str, Any]) -> list[list[nn.Module]]:
    return [
        [BNextBlock(**setting, **unit) for setting in stage]
        for stage in block_settings(arch['channels'])
    ]


def _stages_18(arch: dict[str, Any], unit: dict[str, Any]) -> list[list[nn.Module]]:
    unit = dict(unit, mix_residual=True)
    return [[BNext18Block(**setting, **unit) for setting in stage] for stage in unit_settings(arch)]
