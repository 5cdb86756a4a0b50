"""BinaryViT and ES-BinaryViT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.fx import Proxy

from ...binary import TiledBatchNorm2d
from ...binary.arguments import BUILT
from ...binary.entries import with_zero
from ...binary.feed_forward import RESIDUAL_POOLS
from ...binary.inputs import check_maps
from ...checks import either, none, one_of, pair, positive_int, sequence
from .base import BackboneOptions, ESBackbone, Final, checked_backbone
from .vit_archs import resolve_arch
from .vit_stages import BinaryViTBlock, PatchMerging, PatchStem


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
