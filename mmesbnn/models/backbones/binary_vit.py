"""BinaryViT and ES-BinaryViT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.fx import Proxy

from ...binary import (
    BinaryFeedForward,
    BinaryMultiheadAttention,
    Expansion,
    LearnableShift,
    RPReLU,
    ShrunkConv2d,
    TiledBatchNorm2d,
    tile,
)
from ...binary.arguments import BUILT
from ...binary.attention import RESIDUAL_POOLS, map_of, tokens_of
from ...binary.entries import with_zero
from ...binary.expansion import spread_thresholds
from ...binary.inputs import check_maps
from ...binary.tracing import whole_layer
from ...binary.unit_steps import normalized, normalized_tokens
from ...checks import either, none, one_of, pair, positive_int, sequence
from ..layers.branches import LayerScale, PoolBranches, add_scaled
from .base import (
    BackboneOptions,
    ESBackbone,
    Final,
    are_widths,
    checked_backbone,
    is_width,
    named_arch,
)

ARCHS: dict[str, dict[str, Any]] = {
    'small': dict(
        dims=[64, 128, 256, 512],
        depths=[3, 4, 8, 4],
        heads=[1, 2, 4, 8],
        ffn_dims=[512, 1024, 1024, 2048],
        sr_ratios=[8, 4, 1, 1],
        patch_size=4,
        stem_norm=True,
    ),
    'deit-small': dict(
        dims=[384],
        depths=[12],
        heads=[6],
        ffn_dims=[1536],
        sr_ratios=[1],
        patch_size=16,
        stem_norm=False,
    ),
}

#: Initial factors of the main branches.
SCALE = 0.1


def resolve_arch(arch: Any) -> dict[str, Any]:
    """Check ``arch`` and return it as a dict with all its keys.

    Raises:
        ValueError: If it is neither a known name nor a valid dict.
    """
    arch = named_arch(arch, ARCHS)
    if not isinstance(arch, dict):
        raise ValueError(f'arch={arch!r} must be one of {list(ARCHS)} or a dict')
    lists = ('dims', 'depths', 'heads', 'ffn_dims', 'sr_ratios')
    options = dict(patch_size=4, stem_norm=True)
    arch = {**options, **arch}
    if set(arch) != {*lists, *options}:
        raise ValueError(
            f'arch has the keys {sorted(arch)}: {list(lists)} are needed, {list(options)} optional'
        )
    values = {name: arch[name] for name in lists}
    for name, value in values.items():
        if not are_widths(value) or len(value) != len(values['dims']):
            raise ValueError(
                f'arch: {name}={value} must be one positive number per stage of '
                f'dims={values["dims"]}'
            )
    if not isinstance(arch['stem_norm'], bool):
        raise ValueError(f'arch: stem_norm={arch["stem_norm"]!r} must be True or False')
    if not values['dims'] or not is_width(arch['patch_size']):
        raise ValueError(f'arch: patch_size={arch["patch_size"]} and dims must be > 0')
    for width, following in pairwise(values['dims']):
        if following % width:
            raise ValueError(
                f'arch: dims={values["dims"]}: {width} does not divide {following}, '
                'as the residual between the stages needs'
            )
    return {**arch, **{name: list(value) for name, value in values.items()}}


class Positions(nn.Module):
    """Position embedding ``y = x + p`` with a learnable ``p`` per channel and pixel.

    ``p`` starts as truncated N(0, 0.02^2). For a map of another size it is interpolated
    (bicubic).

    Args:
        channels: Channels of the map.
        size: Height and width of the map.
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, *size))
        nn.init.trunc_normal_(self.bias, std=0.02)

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Add the positions to the map ``x``; the result has its tokens in order."""
        bias: Tensor = self.bias
        if bias.shape[2:] != x.shape[2:]:
            bias = F.interpolate(bias, x.shape[2:], mode='bicubic')
        return (x + bias).contiguous(memory_format=torch.channels_last)


class PatchStem(nn.Module):
    """Full-precision patch embedding: convolution, tiling, norm, position embedding.

    Args:
        in_channels: Channels of the image.
        out_channels: ``C``, channels before expansion.
        patch_size: Kernel and stride of the convolution.
        size: Height and width of the output.
        expansion: ES parameters of the stream.
        has_norm: Whether there is a norm.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch_size: int,
        size: tuple[int, int],
        expansion: Expansion,
        has_norm: bool,
        norm: dict[str, Any],
    ) -> None:
        super().__init__()
        wide, self.copies = expansion.width(out_channels), expansion.tau
        self.conv = nn.Conv2d(in_channels, out_channels, patch_size, patch_size)
        self.norm = TiledBatchNorm2d(wide, self.copies, **norm) if has_norm else None
        self.positions = Positions(wide, size)

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Compute the first map of the images ``x``."""
        x = self.conv(x)
        if self.norm is None:
            return self.positions(tile(x, self.copies))
        return self.positions(normalized(x, self.norm, self.copies))


class PatchMerging(nn.Module):
    """Transition between two stages: it halves the resolution and adds channels.

    With ``n = norm_1(x)`` and ``P`` the 2x2 average pooling::

        y = rprelu(norm_2(tile(binary_conv2x2/2(n + b))) + tile(P(n))) + positions

    or, in full precision, ``y = norm_2(tile(conv2x2/2(n))) + positions``. With ``tau >
    1`` all features have ``C tau`` channels.

    Args:
        in_channels: ``C_i`` before expansion.
        out_channels: ``C_o`` before expansion, a multiple of ``C_i``.
        size: Height and width of the output.
        expansion: ES parameters of the stream.
        full_precision: Whether the convolution is full precision instead of binary.
        spread: Initial thresholds of copies lie evenly in ``[-spread, spread]``.
        sign: Sign of the input, see :func:`mmesbnn.binary.build_sign`.
        weight_binarizer: As :class:`BinaryConv2d`'s.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.

    Source: Le and Li, "BinaryViT"; ``full_precision`` is the option ``--some-fp`` of its
    code.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        expansion: Expansion,
        full_precision: bool,
        spread: float,
        sign: Any,
        weight_binarizer: Any,
        norm: dict[str, Any],
    ) -> None:
        super().__init__()
        wide_in, wide = expansion.width(in_channels), expansion.width(out_channels)
        self.copies, self.widening = expansion.copies, out_channels // in_channels
        self.norm_in = TiledBatchNorm2d(wide_in, **norm)
        self.full_precision = full_precision
        if full_precision:
            kernels = expansion.kernels(out_channels)
            self.conv = nn.Conv2d(wide_in, kernels, 2, 2, bias=False)
        else:
            self.shift = LearnableShift(wide_in)
            with torch.no_grad():
                start = spread_thresholds(in_channels, expansion.tau, spread)
                self.shift.bias.copy_(start.view(1, -1, 1, 1))
            self.conv = ShrunkConv2d(
                in_channels,
                out_channels,
                2,
                2,
                expansion=expansion,
                sign=sign,
                weight_binarizer=weight_binarizer,
            )
            self.act = RPReLU(wide)
        self.norm = TiledBatchNorm2d(wide, self.copies, **norm)
        self.positions = Positions(wide, size)

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Compute the first map of the next stage."""
        x = normalized(x, self.norm_in)
        y = self.conv(x if self.full_precision else self.shift(x))
        y = normalized(y, self.norm, self.copies)
        if not self.full_precision:
            y = self.act(y + tile(F.avg_pool2d(x, 2), self.widening))
        return self.positions(y)


class BinaryViTBlock(nn.Module):
    """Transformer block: attention, then a feed-forward with parallel pooling branches.

    With norms ``u`` and layer scales ``LS``::

        x = x + LS_1(attention(u_1(x)))
        y = x + LS_2(ffn(u_2(x))) + sum_k LS_k(P_k(u_2(x)))

    Args:
        channels: ``C``, channels before expansion.
        heads: Heads of the attention.
        ffn_dims: Hidden channels of the feed-forward.
        sr_ratio: Factor by which keys and values are coarser than queries.
        expansion: ES parameters of the stream.
        ffn: ES parameters of the feed-forward.
        layer_scale: Whether to use ``LS_1`` and ``LS_2``.
        pool_sizes: Sizes of the pooling branches.
        residual_pool: As :class:`BinaryFeedForward`'s.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.
        **unit: ``spread``, ``sign`` and ``weight_binarizer`` of both parts.

    Shape:
        ``(N, C, H, W)`` to the same, times ``tau`` if the stream is expanded.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        ffn_dims: int,
        sr_ratio: int,
        *,
        expansion: Expansion,
        ffn: Expansion,
        layer_scale: bool,
        pool_sizes: Sequence[int],
        residual_pool: str,
        norm: dict[str, Any],
        **unit: Any,
    ) -> None:
        super().__init__()

        def scale() -> nn.Module:
            return LayerScale(wide, SCALE) if layer_scale else nn.Identity()

        wide, unit = expansion.width(channels), dict(unit, norm=norm)
        self.norm1 = TiledBatchNorm2d(wide, **norm)
        self.attention = BinaryMultiheadAttention(channels, heads, sr_ratio, expansion.tau, **unit)
        self.scale1 = scale()
        self.norm2 = TiledBatchNorm2d(wide, **norm)
        self.ffn = BinaryFeedForward(
            channels,
            ffn_dims,
            ffn.tau,
            expanded=expansion.tau > 1,
            residual_pool=residual_pool,
            es_groups=ffn.groups,
            **unit,
        )
        self.scale2 = scale()
        self.branches = PoolBranches(wide, pool_sizes)

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output for the map ``x``."""
        size = (x.shape[2], x.shape[3])
        x = tokens_of(x)
        attended = self.attention(normalized_tokens(x, self.norm1), size)
        x = add_scaled(x, attended, self.scale1)
        normed = normalized_tokens(x, self.norm2)
        x = add_scaled(x, self.ffn(normed), self.scale2)
        return map_of(self.branches(x, normed, size), size)


@MODELS.register_module()
class BinaryViT(ESBackbone):
    """Backbone BinaryViT, a pyramid of binary Transformer blocks; ES with ``tau > 1``.

    The binary multiplications of linear layers, convolutions and attention products, and
    the weight bits, are those of ``tau = 1`` for both values of ``es_scope``.

    ``arch='deit-small'`` is the plain binary DeiT-S of the paper's ablation, with mean
    pooling instead of a class token. The first step of the ablation is
    ``layer_scale=False, pool_sizes=()``, the second ``layer_scale=False``, and the third
    is the default.

    Args:
        arch: ``'small'``, ``'deit-small'``, or a dict. The dict has the lists ``dims``,
            ``depths``, ``heads``, ``ffn_dims`` and ``sr_ratios`` (of the attention), with
            one entry per stage, and optionally ``patch_size`` (default 4) and
            ``stem_norm`` (default True). Default ``'small'``.
        img_size: Height and width of the images in pixels. It sets the size of the
            position embeddings; for other sizes they are interpolated. Default 224.
        es_scope: With ``'ffn'`` only the feed-forwards, 70 % of the multiplications, are
            expanded and shrunk; the features between blocks keep their width. With
            ``'all'`` these features are expanded, too, and so are all linear layers.
            Default ``'ffn'``.
        residual_pool: Averaging of the feed-forwards' residual, see
            :class:`BinaryFeedForward`: ``'adjacent'`` (published) or ``'replica'``.
            Default ``'adjacent'``.
        spread: With ``tau > 1`` the initial thresholds of copies lie evenly in
            ``[-spread, spread]``. Default 0.5.
        some_fp: Whether the convolutions between stages are full precision. Default
            False.
        layer_scale: Whether branches are scaled. Default True.
        pool_sizes: Odd sizes of the pooling branches. Default (3, 5).
        in_channels: Channels of the image. Default 3.
        sign: Sign of the activations, see :func:`mmesbnn.binary.build_sign`; in attention
            also that of queries, keys and values. Default ``'quadratic'``, as published.
        weight_binarizer: Binarizer of all binary weights, see
            :func:`mmesbnn.binary.build_weight_binarizer`. Default None: as published,
            ``'centred_sign'`` in linear layers, and ``'scaled_sign'`` in the convolutions
            between stages.
        sign_zero: Value of sign(0): -1, or 0 as in the published code. Default -1.
        final_norm: Whether to apply a norm to the last stage's output. The published head
            begins with it. Default True.
        **options: Arguments of :class:`BackboneOptions`, such as ``tau``. ``groups`` are
            the groups of the feed-forwards, with ``es_scope='ffn'`` only. The published
            norm is ``norm_cfg=dict(type='SyncBN')``. Without ``init_cfg`` positions start
            as truncated N(0, 0.02^2), and all other parameters get torch's
            initialisation. The published code has a function that initialises more, but
            never calls it.

    Raises:
        ValueError: At construction, if an argument is not one of the allowed values, or
            if ``tau`` or ``groups`` do not divide a width; when called, if the images'
            height or width is not a multiple of the last stage's stride.

    Shape:
        ``(N, in_channels, H, W)`` to a tuple of ``(N, C, H', W')``.

    Source: Le and Li, "BinaryViT", arXiv 2306.16678; Shi et al., "Expanding-and-
    Shrinking Binary Neural Networks", arXiv 2503.23709. The latter reports a result but
    does not say which layers of a Transformer expand; both scopes are our interpretation.
    """

    @checked_backbone(
        img_size=pair(positive_int),
        es_scope=one_of('ffn', 'all'),
        pool_sizes=sequence(positive_int),
        residual_pool=one_of(*RESIDUAL_POOLS),
        weight_binarizer=either(BUILT, none),
    )
    def __init__(
        self,
        arch: str | dict[str, Any] = 'small',
        *,
        img_size: int | Sequence[int] = 224,
        es_scope: str = 'ffn',
        residual_pool: str = 'adjacent',
        spread: float = 0.5,
        some_fp: bool = False,
        layer_scale: bool = True,
        pool_sizes: Sequence[int] = (3, 5),
        in_channels: int = 3,
        sign: Any = 'quadratic',
        weight_binarizer: Any = None,
        sign_zero: int = -1,
        final_norm: bool = True,
        **options: Any,
    ) -> None:
        common = BackboneOptions.of(self, **options)
        if common.groups != 1 and es_scope == 'all':
            raise ValueError(
                f"groups={common.groups} must be 1 with es_scope='all', because attention has "
                "no groups; with es_scope='ffn' the feed-forwards have groups"
            )
        for k in pool_sizes:
            if k % 2 == 0:
                raise ValueError(f'pool_sizes={pool_sizes} must be odd and positive')
        arch = resolve_arch(arch)
        stream = replace(common, tau=common.tau if es_scope == 'all' else 1, groups=1)
        stride = arch['patch_size'] * 2 ** (len(arch['dims']) - 1)
        size = _map_size(img_size, arch['patch_size'], stride)
        unit = dict(expansion=stream.expansion, norm=stream.norm, spread=spread)
        linear, conv = (
            with_zero(sign, own if weight_binarizer is None else weight_binarizer, sign_zero)
            for own in ('centred_sign', 'scaled_sign')
        )
        merging = dict(conv, full_precision=some_fp)
        block = dict(
            linear,
            ffn=common.expansion,
            layer_scale=layer_scale,
            pool_sizes=pool_sizes,
            residual_pool=residual_pool,
        )
        super().__init__(
            stem=PatchStem(
                in_channels,
                arch['dims'][0],
                patch_size=arch['patch_size'],
                size=size,
                expansion=stream.expansion,
                has_norm=arch['stem_norm'],
                norm=stream.norm,
            ),
            stages=[
                [*_merging(arch, i, size, **merging, **unit), *_blocks(arch, i, **block, **unit)]
                for i in range(len(arch['dims']))
            ],
            widths=arch['dims'],
            options=stream,
            final=Final('norm', partial(TiledBatchNorm2d, **stream.norm) if final_norm else None),
        )
        self.arch, self.stride = arch, stride

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices`` for the images ``x``."""
        check_maps(self, x, self.in_channels)
        if not isinstance(x, Proxy):  # which has no size
            _check_size("the images' size", x.shape[2:], self.stride)
        return super().forward(x)


def _check_size(name: str, size: Sequence[int], stride: int) -> None:
    if size[0] % stride or size[1] % stride:
        raise ValueError(
            f'{name}={tuple(size)}: height and width must be multiples of the '
            f'stride {stride} of the last stage'
        )


def _map_size(img_size: int | Sequence[int], patch_size: int, stride: int) -> tuple[int, int]:
    """Return the size of the first map of images of size ``img_size``."""
    height, width = img_size if isinstance(img_size, Sequence) else (img_size, img_size)
    _check_size('img_size', (height, width), stride)
    return height // patch_size, width // patch_size


def _merging(
    arch: dict[str, Any], stage: int, first: tuple[int, int], **options: Any
) -> list[nn.Module]:
    if stage == 0:
        return []
    width, out = arch['dims'][stage - 1 : stage + 1]
    return [PatchMerging(width, out, (first[0] >> stage, first[1] >> stage), **options)]


def _blocks(arch: dict[str, Any], stage: int, **options: Any) -> list[nn.Module]:
    names = ('dims', 'heads', 'ffn_dims', 'sr_ratios')
    widths = [arch[name][stage] for name in names]
    return [BinaryViTBlock(*widths, **options) for _ in range(arch['depths'][stage])]
