"""BiDet's ResNet-18 for Faster R-CNN: the backbone and the stage after RoI pooling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mmengine.model import Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...binary import Expansion, redraw_signs
from ...binary.entries import SIGNS, with_zero
from ...binary.forms import input_form
from ...binary.inputs import check_maps
from ...checks import one_of, positive_int, sequence, shown
from ..layers.float_layers import Stem
from .base import BackboneOptions, ESBackbone, checked_backbone, norm_options
from .reactnet import ReActUnit

#: Widths of the stem and the four stages, and units (one convolution each) per stage.
WIDTHS, DEPTHS = (64, 64, 128, 256, 512), (4, 4, 4, 4)

#: Published initialisation. The list names the classes that have a kernel.
HE = dict(
    type='Kaiming',
    layer=['Conv2d', 'ShrunkConv2d'],
    mode='fan_out',
    nonlinearity='relu',
    distribution='normal',
)


#: Weights of the published networks: ``mean|w| sign(w)``, with gradients through the mean, too.
WEIGHTS = dict(type='scaled_sign', attached=True)


def bidet_conv(sign: Any, weight_binarizer: Any, sign_zero: int) -> dict[str, Any]:
    """Return arguments of BiDet's convolutions, whose padded pixels are -1.

    Args:
        sign: As :class:`BiDetResNet`'s.
        weight_binarizer: As :class:`BiDetResNet`'s.
        sign_zero: As :class:`BiDetResNet`'s.

    Raises:
        ValueError: If a name is unknown, or if the sign never gives -1.
    """
    parts = with_zero(sign, weight_binarizer, sign_zero)
    form = input_form(SIGNS.build(parts['sign']))
    if form.low != -1:
        raise ValueError(
            f'{shown("sign", sign)} gives {form}: BiDet pads with -1, so the smallest value must '
            'be -1'
        )
    return dict(parts, pad_value=-1)


def make_stage(
    channels: int,
    out_channels: int,
    depth: int,
    *,
    stride: int,
    expansion: Expansion,
    norm: dict[str, Any],
    conv: dict[str, Any],
) -> nn.Sequential:
    """Build units of one convolution and one shortcut; the first changes width and size.

    The shortcut of a first unit with stride 2 is a projection, even if the width does not
    change.

    Args:
        channels: Input channels before expansion.
        out_channels: Output channels before expansion.
        depth: Number of units.
        stride: Stride of the first unit.
        expansion: ES parameters.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.
        conv: Arguments of the convolutions, see :func:`bidet_conv`.
    """
    unit = dict(generalized=False, expansion=expansion, norm=norm, **conv)
    return nn.Sequential(
        ReActUnit(channels, 3, stride, out_channels, project=stride == 2, **unit),
        *(ReActUnit(out_channels, 3, **unit) for _ in range(1, depth)),
    )


@MODELS.register_module()
class BiDetResNet(ESBackbone):
    """Binary ResNet-18 up to stage C4, with a shortcut around every binary convolution.

    It begins with a full-precision stem without an activation (7x7/2 convolution, norm,
    3x3/2 max-pool). Stages of :class:`ReActUnit` follow, Bi-Real Net's block without
    activations: ``norm(binary_conv(sign(x))) + shortcut(x)``. A shortcut of stride 2 has a
    2x2 average pooling, a full-precision 1x1 convolution and a norm. The pooling keeps the
    last row and column of odd sizes. Convolutions pad with -1, after the sign.

    Args:
        widths: Channels of the stem and every stage, before expansion. Default (64, 64,
            128, 256), which ends at C4; :class:`BiDetResStage` is the next stage. With a
            fifth width, 512, (and ``depths=(4, 4, 4, 4)``, ``out_copies='first'``) it is
            the backbone of a classifier. The weights of that classifier can initialise
            both classes.
        depths: Number of binary convolutions in every stage. Default (4, 4, 4).
        out_copies: With ``'all'`` an output has all ``C tau g`` channels, for the binary
            layers that follow. With ``'first'`` it has the first ``C``. Default
            ``'all'``.
        in_channels: Channels of the image. Default 3.
        sign: Sign of the activations, see :func:`mmesbnn.binary.build_sign`. It must give
            -1 and 1. Default ``'quadratic'``, as published.
        weight_binarizer: Binarizer of the weights, see
            :func:`mmesbnn.binary.build_weight_binarizer`. Default
            ``dict(type='scaled_sign', attached=True)``, as published.
        sign_zero: Value of sign(0): -1, or 0 as in the published code. Default -1.
        init_cfg: mmengine initialisation config. Default: normal with variance ``2 /
            (k_h k_w C_o)``, as published.
        **options: Further arguments of :class:`BackboneOptions`, such as ``tau``. With
            pretrained weights the published network uses ``frozen_stages=0``.

    Raises:
        ValueError: At construction, if an argument is not one of the allowed values, or
            if ``tau`` or ``groups`` do not divide a width.

    Shape:
        ``(N, in_channels, H, W)`` to a tuple of ``(N, C tau g, H / 16, W / 16)``.

    Source: Wang et al., "BiDet" (CVPR 2020), its Faster R-CNN; Liu et al., "Bi-Real
    Net", arXiv 1808.00278. ``tau > 1`` follows Shi et al., arXiv 2503.23709. Its authors
    released no code for this network.
    """

    @checked_backbone(
        widths=sequence(positive_int, shortest=2), depths=sequence(positive_int, shortest=1)
    )
    def __init__(
        self,
        widths: Sequence[int] = WIDTHS[:4],
        depths: Sequence[int] = DEPTHS[:3],
        *,
        out_copies: str = 'all',
        in_channels: int = 3,
        sign: Any = 'quadratic',
        weight_binarizer: Any = WEIGHTS,
        sign_zero: int = -1,
        init_cfg: dict[str, Any] | list[Any] | None = HE,
        **options: Any,
    ) -> None:
        common = BackboneOptions.of(self, out_copies=out_copies, init_cfg=init_cfg, **options)
        widths, depths = list(widths), list(depths)
        if len(widths) != len(depths) + 1:
            raise ValueError(
                f'widths={widths} must be one for the stem and one for each of depths={depths}'
            )
        unit: dict[str, Any] = dict(
            expansion=common.expansion,
            norm=common.norm,
            conv=bidet_conv(sign, weight_binarizer, sign_zero),
        )
        stem = Stem(
            in_channels,
            widths[0],
            kernel_size=7,
            stride=2,
            max_pool=True,
            expansion=common.expansion,
            norm=common.norm,
        )
        stages = [
            make_stage(width, out, depths[i], stride=2 if i else 1, **unit)
            for i, (width, out) in enumerate(pairwise(widths))
        ]
        super().__init__(stem=stem, stages=stages, widths=widths[1:], options=common)


@MODELS.register_module()
class BiDetResStage(Sequential):
    """Last stage of :class:`BiDetResNet`, applied to each region: a C4 ``shared_head``.

    Its state dict is that of the last of four stages of a :class:`BiDetResNet`. A
    classifier's weights can therefore initialise it with
    ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.stages.3')``.

    Args:
        in_channels: Input channels before expansion. Default 256.
        out_channels: Output channels. Default 512.
        depth: Number of binary convolutions. Default 4.
        stride: Stride of the first convolution. Default 2: 7x7 regions become 4x4.
        tau: ES factor of the backbone. Default 1.
        groups: ES groups of the backbone. Default 1.
        copy_init: As :class:`BiDetResNet`'s. Default ``'alike'``.
        sign_zero: Value of sign(0): -1, or 0 as in the published code. Default -1.
        norm_cfg: As :class:`BiDetResNet`'s. Default ``dict(type='BN')``.
        init_cfg: mmengine initialisation config. Default: as :class:`BiDetResNet`'s.
        sign: As :class:`BiDetResNet`'s. Default ``'quadratic'``.
        weight_binarizer: As :class:`BiDetResNet`'s.

    Raises:
        ValueError: If an argument is not one of the allowed values or ``tau`` or
            ``groups`` do not divide a width.

    Shape:
        ``(N, C_i tau g, H, W)`` to the first ``C_o`` of the expanded output, ``(N, C_o,
        ceil(H / stride), ceil(W / stride))``.

    Source: as :class:`BiDetResNet`.
    """

    @checked_backbone(stride=one_of(1, 2))
    def __init__(
        self,
        in_channels: int = WIDTHS[3],
        out_channels: int = WIDTHS[4],
        depth: int = DEPTHS[3],
        stride: int = 2,
        tau: int = 1,
        groups: int = 1,
        copy_init: str = 'alike',
        sign_zero: int = -1,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[Any] | None = HE,
        sign: Any = 'quadratic',
        weight_binarizer: Any = WEIGHTS,
    ) -> None:
        norm, trained = norm_options(norm_cfg)
        stage = make_stage(
            in_channels,
            out_channels,
            depth,
            stride=stride,
            expansion=Expansion(tau, groups),
            norm=dict(norm, copy_init=copy_init),
            conv=bidet_conv(sign, weight_binarizer, sign_zero),
        )
        super().__init__(*stage, init_cfg=init_cfg)
        self.in_channels = Expansion(tau, groups).width(in_channels)
        self.out_channels = out_channels
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not trained:
                module.requires_grad_(False)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; copies start as ``copy_init`` says all the same."""
        super().init_weights()
        redraw_signs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features of the regions ``x``."""
        check_maps(self, x, self.in_channels)
        return super().forward(x)[:, : self.out_channels]
