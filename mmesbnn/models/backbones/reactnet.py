"""ReActNet, Bi-Real Net and their ES forms."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...binary import Expansion, LearnableShift, RSign, ShrunkConv2d, TiledBatchNorm2d, build_sign
from ...binary.entries import with_zero
from ...binary.prelus import ChannelPReLU
from ...binary.unit_steps import residual_norm, signed_convs
from ...checks import one_of, optional, positive_int
from ..layers.float_layers import PooledProjection
from ..layers.pooling import AveragePool
from .base import BackboneOptions, ESBackbone, checked_backbone
from .pyramid import MOBILE, block_settings, make_stem, resolve_arch, stage_widths, unit_settings

ARCHS: dict[str, dict[str, Any]] = {
    'A': MOBILE,
    '18': dict(channels=[64, 64, 128, 256, 512], depths=[4, 4, 4, 4]),
}


def _shortcut(
    channels: int,
    out_channels: int,
    stride: int,
    project: bool,
    expansion: Expansion,
    norm: dict[str, Any],
) -> nn.Module:
    if project or out_channels != channels:
        return PooledProjection(channels, out_channels, stride, expansion, True, norm)
    return AveragePool() if stride == 2 else nn.Identity()


class ReActUnit(nn.Module):
    """One or two parallel binary convolutions, each with its own residual.

    With ``P`` the 2x2 average pooling (stride 2), a projection (another width) or the
    identity::

        s = sign(x + b)
        y_i = norm_i(binary_conv_i(s)) + P(x)
        y = prelu(concat(y_1, ..) + b_0) + b_1

    With ``generalized=False`` there are no shifts and no PReLU. This is Bi-Real Net's
    block.

    Args:
        channels: Input channels before expansion.
        kernel_size: 3 or 1.
        stride: 1 or 2. Default 1.
        out_channels: Output channels of a convolution before expansion. Default None:
            ``channels``.
        branches: Number of parallel convolutions. Default 1.
        project: Whether the shortcut is a projection even if the width does not change.
            Default False.
        pad_value: Value of padded pixels, after the sign: 0, or -1 as in BiDet.
            Default 0.
        generalized: Whether there are shifts and a PReLU.
        expansion: ES parameters.
        sign: Sign that binarizes the input, see :func:`mmesbnn.binary.build_sign`.
        weight_binarizer: As :class:`ShrunkConv2d`'s.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.

    Raises:
        ValueError: If ``tau`` or ``groups`` do not divide the channels.

    Shape:
        ``(N, C tau g, H, W)`` to ``(N, branches C_o tau g, ceil(H / stride), ...)``.

    Source: Liu et al., "ReActNet" (2020), figure 5; Liu et al., "Bi-Real Net" (2018).
    """

    @checked_backbone(
        kernel_size=one_of(1, 3),
        stride=one_of(1, 2),
        out_channels=optional(positive_int),
        branches=positive_int,
    )
    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        out_channels: int | None = None,
        branches: int = 1,
        project: bool = False,
        pad_value: int = 0,
        *,
        generalized: bool,
        expansion: Expansion,
        sign: Any,
        weight_binarizer: Any,
        norm: dict[str, Any],
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        wide_in, wide = expansion.width(channels), expansion.width(out_channels)
        self.copies = expansion.copies
        self.sign = RSign(wide_in, sign) if generalized else build_sign(sign)
        self.convs = nn.ModuleList(
            ShrunkConv2d(
                channels,
                out_channels,
                kernel_size,
                stride,
                kernel_size // 2,
                expansion=expansion,
                sign=None,
                weight_binarizer=weight_binarizer,
                pad_value=pad_value,
            )
            for _ in range(branches)
        )
        self.norms = nn.ModuleList(
            TiledBatchNorm2d(wide, self.copies, **norm) for _ in range(branches)
        )
        self.shortcut = _shortcut(channels, out_channels, stride, project, expansion, norm)
        self.act: nn.Module = nn.Identity()
        if generalized:
            # an RPReLU whose slopes are one-dimensional, so they do not get the kernels' decay
            self.act = nn.Sequential(
                LearnableShift(branches * wide),
                ChannelPReLU(branches * wide),
                LearnableShift(branches * wide),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the unit's output for ``x``."""
        residual = self.shortcut(x)
        maps = zip(signed_convs(x, self.sign, self.convs), self.norms)
        if len(self.norms) == 1:
            ((y, norm),) = maps
            act = self.act if isinstance(self.act, nn.Sequential) else None
            return residual_norm(y, norm, residual, self.copies, act)
        outputs = [residual_norm(y, norm, residual, self.copies) for y, norm in maps]
        return self.act(torch.cat(outputs, 1))


class ReActBlock(nn.Sequential):
    """Block of ReActNet-A: a 3x3 unit, then a 1x1 unit that can double the width.

    Args:
        channels: Input channels before expansion.
        stride: 1 or 2.
        double: Whether to double the width.
        **unit: Further arguments of :class:`ReActUnit`.
    """

    @checked_backbone(stride=one_of(1, 2))
    def __init__(self, channels: int, stride: int, double: bool, **unit: Any) -> None:
        super().__init__(
            ReActUnit(channels, 3, stride, **unit),
            ReActUnit(channels, 1, branches=2 if double else 1, **unit),
        )


@MODELS.register_module()
class ReActNet(ESBackbone):
    """Backbone ReActNet-A, ReActNet-18 or Bi-Real-18, and their ES forms with ``tau > 1``.

    It has a stem and units of :class:`ReActUnit`. Features between the units are
    ``C tau g`` channels wide. Binary multiplications, weight bits and the cost of the
    projections are those of ``tau = groups = 1``. Training has two stages, whose state
    dicts have the same keys. The first stage uses ``weight_binarizer='real'``. The second
    starts from its weights and uses the default.

    Args:
        arch: ``'A'``, ``'18'``, or a dict, see :mod:`mmesbnn.models.backbones.pyramid`. A
            dict with ``depths`` has the layout of ReActNet-18. ``'A'`` has five stages,
            with strides 2, 4, 8, 16, 32 on ImageNet; ``'18'`` has four. Default ``'A'``.
        generalized: Whether signs have learnable thresholds and blocks end in shifted
            PReLUs (ReActNet). With False they have neither, so ``arch='18'`` is
            Bi-Real-18. Default True.
        sign: Sign of the activations, see :func:`mmesbnn.binary.build_sign`. Default
            ``'quadratic'``.
        weight_binarizer: ``'scaled_sign'``, or ``'real'`` for the first stage, see
            :func:`mmesbnn.binary.build_weight_binarizer`. Default ``'scaled_sign'``.
        in_channels: Channels of the image. Default 3.
        stem_stride: Total stride of the stem: 2 (ImageNet) or 1 (32x32 images). In the
            layout of ReActNet-18 it is 4 (7x7 convolution and max-pool) or 1. Default
            None: the stride for ImageNet, 2 or 4.
        sign_zero: Value of sign(0): -1, or 0 as in the published code. Default -1.
        **options: Arguments of :class:`BackboneOptions`, such as ``tau`` and ``groups``.
            Without ``init_cfg`` weights get torch's initialisation, as in the published
            first stage. (The published code initialises the second stage uniformly in
            [0, 0.001), where all signs are equal, but always overwrites these values.)

    Raises:
        ValueError: At construction, if an argument is not one of the allowed values, or
            if ``tau`` or ``groups`` do not divide a width.

    Shape:
        ``(N, in_channels, H, W)`` to a tuple of ``(N, C, H', W')``.

    Source: Liu et al., "ReActNet", arXiv 2003.03488; Liu et al., "Bi-Real Net", arXiv
    1808.00278; Shi et al., "Expanding-and-Shrinking Binary Neural Networks", arXiv
    2503.23709. Its authors released no code for these networks.
    """

    @checked_backbone()
    def __init__(
        self,
        arch: str | dict[str, Any] = 'A',
        *,
        generalized: bool = True,
        sign: Any = 'quadratic',
        weight_binarizer: Any = 'scaled_sign',
        in_channels: int = 3,
        stem_stride: int | None = None,
        sign_zero: int = -1,
        **options: Any,
    ) -> None:
        common = BackboneOptions.of(self, **options)
        arch = resolve_arch(arch, ARCHS)
        unit = dict(
            generalized=generalized,
            expansion=common.expansion,
            norm=common.norm,
            **with_zero(sign, weight_binarizer, sign_zero),
        )
        super().__init__(
            stem=make_stem(arch, in_channels=in_channels, stride=stem_stride, options=common),
            stages=_stages_18(arch, unit) if 'depths' in arch else _stages(arch, unit),
            widths=stage_widths(arch),
            options=common,
        )
        self.arch = arch


def _stages(arch: dict[str, Any], unit: dict[str, Any]) -> list[list[nn.Module]]:
    return [
        [ReActBlock(s['channels'], s['stride'], s['double'], **unit) for s in stage]
        for stage in block_settings(arch['channels'])
    ]


def _stages_18(arch: dict[str, Any], unit: dict[str, Any]) -> list[list[nn.Module]]:
    return [
        [ReActUnit(kernel_size=3, **setting, **unit) for setting in stage]
        for stage in unit_settings(arch)
    ]
