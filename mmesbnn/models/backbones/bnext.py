"""BNext and ES-BNext."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...checks import one_of, optional, positive
from ..layers.float_layers import Stem
from ..layers.recoupled_conv import RecoupledConv
from .base import ESBackbone, are_widths, checked_backbone, named_arch

ARCHS: dict[str, dict] = {
    'tiny': dict(channels=[32, 64, *[128] * 2, *[256] * 2, *[512] * 6, *[1024] * 2]),
    'small': dict(channels=[48, 96, *[192] * 2, *[384] * 2, *[768] * 6, *[1536] * 2]),
    'middle': dict(channels=[48, 96, *[192] * 4, *[384] * 4, *[768] * 8, *[1536] * 4]),
    'large': dict(channels=[64, 128, *[256] * 4, *[512] * 4, *[1024] * 16, *[2048] * 4]),
    '18': dict(channels=[64, 64, 128, 256, 512], depths=[2, 2, 2, 2]),
}

#: Temperature under which BNext-18's weights are their signs (T/S/M/L: 1e-7).
BINARY_BELOW_18 = 1e-5


def resolve_arch(arch: str | dict, archs: dict[str, dict] = ARCHS) -> dict:
    """Check ``arch`` and return it as a dict with ``channels`` (and ``depths``).

    Args:
        arch: A name or a dict.
        archs: The named ones. Default: BNext's.

    Raises:
        ValueError: If it is neither a known name nor a valid dict.
    """
    arch = named_arch(arch, archs)
    if not isinstance(arch, dict) or 'channels' not in arch:
        raise ValueError(f'arch={arch!r} must be a name or a dict with `channels`')
    unknown = set(arch) - {'channels', 'depths'}
    if unknown:
        raise ValueError(f'arch has the unknown keys {sorted(unknown)}')
    channels, depths = arch['channels'], arch.get('depths')
    if not are_widths(channels) or len(channels) < 2:
        raise ValueError(f'arch: channels={channels} must be two or more widths')
    if depths is None:
        for width, following in pairwise(channels):
            if following not in (width, 2 * width):
                raise ValueError(
                    f'arch: channels={channels}: a block keeps or doubles its width, '
                    f'{width} -> {following} does neither'
                )
        return dict(channels=list(channels))
    if not are_widths(depths) or len(depths) != len(channels) - 1:
        raise ValueError(
            f'arch: depths={depths} must be one positive number per stage of channels={channels}'
        )
    return dict(channels=list(channels), depths=list(depths))


def block_settings(channels: Sequence[int]) -> list[list[dict]]:
    """The blocks of a BNext with these ``channels``, stage by stage.

    A block halves the resolution, and starts a stage, where the width changes; the
    first one never does. Even-numbered blocks multiply with their residual.
    """
    stages: list[list[dict]] = [[]]
    for i, (width, out) in enumerate(pairwise(channels), start=1):
        stride = 2 if i > 1 and out != width else 1
        if stride == 2:
            stages.append([])
        stages[-1].append(
            dict(channels=width, stride=stride, elementwise=i % 2 == 0, double=out != width)
        )
    return stages


class BNextBlock(nn.Module):
    """A 3x3 module followed by one 1x1 module, or two side by side to double the width.

    Args:
        channels: Input channels before expansion.
        stride: 1 or 2.
        elementwise: Whether the 3x3 module multiplies with its residual.
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
        outputs = [unit(x) for unit in self.pointwise]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)


class BNext18Block(nn.Sequential):
    """Two 3x3 modules; the first changes width and resolution.

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
    """BNext, and with ``tau > 1`` or ``groups > 1`` ES-BNext.

    Stem, blocks of :class:`RecoupledConv`, and a PReLU on the last output. All features
    between are ``C tau g`` channels wide; binary multiplications and weight bits are
    those of ``tau = groups = 1``.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'middle'``, ``'large'``, ``'18'``, or a dict:
            ``channels``, the stem's width and then every block's; with ``depths`` as
            well (blocks per stage, one width per stage) the layout of BNext-18.
            Default ``'tiny'``.
        tau: ES factor. Default 1, the baseline.
        groups: ES groups. Default 1.
        es_mode: ``'shrunk'``: squeeze-excite and projections follow the ES arithmetic,
            at the cost of ``tau = 1`` (published as ``bnext_rep_ops``); ``'full'``:
            they have the expanded width (``bnext_rep``). Default ``'shrunk'``.
        out_copies: ``'first'``: an output is the first ``C`` channels, as published for
            ``'shrunk'``; ``'all'``: all ``C tau g``. Default: ``'first'`` if
            ``es_mode='shrunk'`` else ``'all'``.
        in_channels: Channels of the image. Default 3.
        stem_stride: Total stride of the stem. 2 (ImageNet) or 1 (32x32 images); 4 (7x7
            convolution and max-pool) or 1 for the layout of BNext-18. Default: the
            ImageNet one.
        se_ratio: Reduction of squeeze-excite. Default 8.
        stem_bits: Bits of the stem's kernel (8 in the quantised variant), None for full
            precision. Default None.
        se_bits: Bits of squeeze-excite, likewise. Default None.
        sign_zero: What sign(0) is: -1, or 0 as in the published code. Default -1.
        latent_clip: Bound of the latent weights' magnitude, applied by
            ``ParameterBoundsHook``. Default 1.5.
        out_indices: Stages whose output is returned. T/S/M/L have five, with strides 2,
            4, 8, 16, 32 on ImageNet; 18 has four. Default: the last.
        frozen_stages: Stem and this many stages are frozen; 0 freezes the stem, -1
            nothing. Default -1.
        norm_cfg: ``dict(type='BN')`` or ``dict(type='SyncBN')``, with ``eps``,
            ``momentum``, ``requires_grad``. ``SyncBN`` shares statistics among
            processes, on CPUs too. Default ``dict(type='BN')``.
        norm_eval: Whether norms stay in eval mode while training. Default False.
        with_cp: Whether to save only the convolutions' outputs for the backward pass
            and recompute the rest. Default False.
        final_act: Whether the last stage's output passes the PReLU that the published
            head begins with. Default True.
        init_cfg: mmengine initialisation config. Default None: binary weights
            N(0, 0.001^2), the rest as torch does.

    Raises:
        ValueError: If an argument is not one of the allowed values or ``tau`` or
            ``groups`` do not divide a width; at construction.

    Shape:
        ``(N, in_channels, H, W)`` to a tuple of ``(N, C, H', W')``.

    Source: Guo et al., "BNext", arXiv 2211.12933; Shi et al., "Expanding-and-Shrinking
    Binary Neural Networks", arXiv 2503.23709.
    """

    @checked_backbone(
        es_mode=one_of('shrunk', 'full'),
        out_copies=optional(one_of('first', 'all')),
        latent_clip=optional(positive),
    )
    def __init__(
        self,
        arch: str | dict = 'tiny',
        tau: int = 1,
        groups: int = 1,
        es_mode: str = 'shrunk',
        out_copies: str | None = None,
        in_channels: int = 3,
        stem_stride: int | None = None,
        se_ratio: int = 8,
        stem_bits: int | None = None,
        se_bits: int | None = None,
        sign_zero: int = -1,
        latent_clip: float = 1.5,
        out_indices: Sequence[int] = (-1,),
        frozen_stages: int = -1,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        final_act: bool = True,
        init_cfg: dict | list | None = None,
    ) -> None:
        if out_copies is None:
            out_copies = 'first' if es_mode == 'shrunk' else 'all'
        super().__init__(
            tau, groups, out_copies, frozen_stages, norm_cfg, norm_eval, with_cp, init_cfg
        )
        self.arch = resolve_arch(arch)
        is_18 = 'depths' in self.arch
        unit = dict(
            expansion=self.expansion,
            shrink=es_mode == 'shrunk',
            se_ratio=se_ratio,
            se_bits=se_bits,
            norm=self.norm_args,
            conv=dict(
                sign=dict(type='hard_tanh', clip=1.5, zero=sign_zero),
                weight_binarizer=dict(type='temperature', zero=sign_zero),
                latent_clip=latent_clip,
            ),
        )
        self.stem = self._make_stem(in_channels, stem_stride, is_18, stem_bits)
        self.stages = (self._make_18 if is_18 else self._make_stages)(unit)
        self._finish(self._stage_widths(), out_indices, final_act)

    def _make_stem(
        self, in_channels: int, stride: int | None, is_18: bool, bits: int | None
    ) -> Stem:
        allowed = (4, 1) if is_18 else (2, 1)
        stride = allowed[0] if stride is None else stride
        if stride not in allowed:
            raise ValueError(f'stem_stride={stride} must be one of {allowed}')
        large = is_18 and stride == 4
        return Stem(
            in_channels,
            self.arch['channels'][0],
            7 if large else 3,
            min(stride, 2),
            large,
            self.expansion,
            self.norm_args,
            bits,
        )

    def _make_stages(self, unit: dict) -> nn.ModuleList:
        return nn.ModuleList(
            nn.Sequential(*(BNextBlock(**setting, **unit) for setting in stage))
            for stage in block_settings(self.arch['channels'])
        )

    def _make_18(self, unit: dict) -> nn.ModuleList:
        conv = copy.deepcopy(unit['conv'])
        conv['weight_binarizer']['binary_below'] = BINARY_BELOW_18
        unit = dict(unit, mix_residual=True, conv=conv)
        channels, stages = self.arch['channels'], nn.ModuleList()
        for i, depth in enumerate(self.arch['depths']):
            width, out = channels[i : i + 2]
            blocks = [BNext18Block(width, out, 2 if i else 1, **unit)]
            blocks += [BNext18Block(out, out, 1, **unit) for _ in range(1, depth)]
            stages.append(nn.Sequential(*blocks))
        return stages

    def _stage_widths(self) -> list[int]:
        channels = self.arch['channels']
        if 'depths' in self.arch:
            return channels[1:]
        return [channels[end] for end in accumulate(map(len, self.stages))]
