"""BiDet's binary VGG-16 for SSD, and its ES form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn

from ...binary import Expansion, ShrunkConv2d, TiledBatchNorm2d
from ...binary.unit_steps import normalized
from ..layers.float_layers import Stem, float_conv
from .base import (
    BackboneOptions,
    ESBackbone,
    are_widths,
    check_arch_keys,
    checked_backbone,
    named_arch,
)
from .bidet_resnet import WEIGHTS, bidet_conv, make_stage

ARCHS: dict[str, dict[str, Any]] = {
    '16': dict(channels=[64, 64, 128, 256, 512, 512, 1024], depths=[1, 3, 4, 4, 4])
}

#: Published initialisation. The list names the classes that have a kernel.
XAVIER = dict(type='Xavier', layer=['Conv2d', 'ShrunkConv2d'], distribution='normal')


def resolve_arch(arch: Any) -> dict[str, Any]:
    """Check ``arch`` and return it as a dict with ``channels`` and ``depths``.

    Raises:
        ValueError: If it is neither a known name nor a valid dict.
    """
    arch = named_arch(arch, ARCHS)
    if not isinstance(arch, dict):
        raise ValueError(f'arch={arch!r} must be a name or a dict')
    check_arch_keys(arch)
    channels, depths = arch.get('channels', ()), arch.get('depths', ())
    if not are_widths(channels) or not are_widths(depths):
        raise ValueError(f'arch={dict(arch)}: channels and depths must be lists of integers >= 1')
    if len(depths) < 1 or len(channels) != len(depths) + 2:
        raise ValueError(
            f'arch={dict(arch)}: channels must be the width of the stem, one width for each '
            'entry of depths, and the width of the last convolutions'
        )
    return dict(channels=list(channels), depths=list(depths))


class DilatedTail(nn.Module):
    """SSD's form of VGG's two fully connected layers; the first one is binary.

    With ``M`` a 3x3 max-pooling of stride 1::

        x = relu(norm_1(binary_conv(sign(M(x)))))        3x3, dilation 6
        y = relu(norm_2(conv(x)))                        1x1, full precision, bias

    Both kernels follow the ES arithmetic.

    Args:
        channels: Input channels before expansion.
        out_channels: Channels of both convolutions before expansion.
        expansion: ES parameters.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.
        conv: Arguments of the convolution, see
            :func:`mmesbnn.models.backbones.bidet_resnet.bidet_conv`.

    Raises:
        ValueError: If ``tau`` or ``groups`` do not divide the channels.

    Shape:
        ``(N, C tau g, H, W)`` to ``(N, C_o tau g, H, W)``.
    """

    @checked_backbone()
    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        expansion: Expansion,
        norm: dict[str, Any],
        conv: dict[str, Any],
    ) -> None:
        super().__init__()
        wide, self.copies = expansion.width(out_channels), expansion.copies
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.conv = ShrunkConv2d(
            channels, out_channels, 3, padding=6, dilation=6, expansion=expansion, **conv
        )
        self.norm1 = TiledBatchNorm2d(wide, self.copies, **norm)
        self.pointwise = float_conv(wide, expansion.kernels(out_channels), groups=expansion.groups)
        self.norm2 = TiledBatchNorm2d(wide, self.copies, **norm)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the module's output for ``x``."""
        x = self.conv(self.pool(x))
        x = self.act(normalized(x, self.norm1, self.copies))
        return self.act(normalized(self.pointwise(x), self.norm2, self.copies))


@MODELS.register_module()
class BiDetVGG(ESBackbone):
    """BiDet's form of VGG-16, with a residual around every binary convolution.

    It begins with a full-precision 3x3 convolution with batch norm. Stages of Bi-Real
    units, ``norm(binary_conv(sign(x))) + shortcut(x)``, follow. VGG's poolings are
    replaced by units of stride 2, whose shortcut is 2x2 average pooling and a
    full-precision 1x1 convolution with norm. Every stage except the first therefore has
    one unit more than VGG has convolutions. :class:`DilatedTail` is the last stage. Padded
    pixels are -1 after the sign. The scales of the weights carry gradients.

    The stem, the shortcuts' projections and the tail's second convolution (VGG's fc7) stay
    full precision.

    With ``tau > 1`` features between the units are ``C tau g`` channels wide. Binary
    multiplications, weight bits and the cost of the projections are those of
    ``tau = groups = 1``.

    With ``out_indices=(-1,)`` it is the backbone of a classifier. Its weights can
    initialise a detector. Use it with ``dict(type='GlobalAveragePooling')`` and a linear
    head of 1024 channels.

    Args:
        arch: ``'16'``, or a dict with ``depths``, the number of units per stage, and
            ``channels``, the widths of the stem, of every stage and of the tail. Default
            ``'16'``.
        in_channels: Channels of the image. Default 3.
        sign: As :class:`BiDetResNet`'s. Default ``'quadratic'``.
        weight_binarizer: As :class:`BiDetResNet`'s.
        sign_zero: Value of sign(0). With -1 every binary convolution reads -1 and +1, as
            packing and export do. 0 is the published value. The difference matters after
            a ReLU, where half of the values are 0: the first extra layer of the published
            SSD, in the neck, reads {0, 1}; with -1 it reads {-1, 1}. Default -1.
        out_indices: Stages whose output is returned. ``'16'`` has six stages, with
            strides 1, 2, 4, 8, 16, 16. Default (3, 5): 512 channels with stride 8, and
            1024 channels with stride 16.
        init_cfg: mmengine initialisation config. Default: Xavier normal, as published.
        **options: Further arguments of :class:`BackboneOptions`, such as ``tau``.

    Raises:
        ValueError: At construction, if an argument is not one of the allowed values, or
            if ``tau`` or ``groups`` do not divide a width.

    Shape:
        ``(N, in_channels, H, W)`` to a tuple of ``(N, C, H', W')``. A 300x300 image gives
        ``(N, 512, 38, 38)`` and ``(N, 1024, 19, 19)``.

    Source: Wang et al., "BiDet: An Efficient Binarized Object Detector" (CVPR 2020),
    and its code; Shi et al., "Expanding-and-Shrinking Binary Neural Networks", arXiv
    2503.23709. Its authors released no code for this network.
    """

    @checked_backbone()
    def __init__(
        self,
        arch: str | dict[str, Any] = '16',
        *,
        in_channels: int = 3,
        sign: Any = 'quadratic',
        weight_binarizer: Any = WEIGHTS,
        sign_zero: int = -1,
        out_indices: int | Sequence[int] = (3, 5),
        init_cfg: dict[str, Any] | list[Any] | None = XAVIER,
        **options: Any,
    ) -> None:
        common = BackboneOptions.of(self, out_indices=out_indices, init_cfg=init_cfg, **options)
        arch = resolve_arch(arch)
        first, *widths, tail = arch['channels']
        unit: dict[str, Any] = dict(
            expansion=common.expansion,
            norm=common.norm,
            conv=bidet_conv(sign, weight_binarizer, sign_zero),
        )
        stem = Stem(
            in_channels,
            first,
            kernel_size=3,
            stride=1,
            max_pool=False,
            expansion=common.expansion,
            norm=common.norm,
        )
        stages: list[Iterable[nn.Module]] = [
            make_stage(width, out, depth, stride=2 if i else 1, **unit)
            for i, ((width, out), depth) in enumerate(
                zip(pairwise([first, *widths]), arch['depths'])
            )
        ]
        stages.append([DilatedTail(widths[-1], tail, **unit)])
        super().__init__(stem=stem, stages=stages, widths=[*widths, tail], options=common)
        self.arch = arch
