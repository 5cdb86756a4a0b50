"""Extra layers of BiDet's SSD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_norm_layer
from mmdet.models.necks import SSDNeck
from torch import Tensor, nn

from ...binary import Expansion
from ...binary.arguments import checked_layer
from ...checks import mapping, natural, optional, positive_int, sequence, shown
from ..backbones.bidet_resnet import WEIGHTS, bidet_conv
from ..building import naming

#: Published initialisation. The list names the classes that have a kernel.
XAVIER = dict(type='Xavier', layer=['BinaryConv2d', 'ShrunkConv2d'], distribution='normal')


def _check_levels(
    in_channels: Sequence[int],
    out_channels: Sequence[int],
    level_strides: Sequence[int],
    level_paddings: Sequence[int],
) -> None:
    count = len(in_channels)
    if list(out_channels[:count]) != list(in_channels) or len(out_channels) == count:
        raise ValueError(
            f'{shown("out_channels", out_channels)} must begin with those of '
            f'{shown("in_channels", in_channels)} and go on with the extra maps'
        )
    extra = out_channels[count:]
    if min(extra) < 2:
        raise ValueError(
            f'{shown("out_channels", out_channels)} must give every extra map 2 channels or more'
        )
    for name, values in dict(level_strides=level_strides, level_paddings=level_paddings).items():
        if len(values) != len(extra):
            raise ValueError(
                f'{shown(name, values)} must have a value for each extra map, of which '
                f'{shown("out_channels", out_channels)} has {len(extra)}'
            )


class BiDetSSDNeck(SSDNeck):
    """mmdet's ``SSDNeck`` of binary convolutions: ``norm(binary_conv(sign(x)))`` each.

    There are no activations and no shortcuts. Padded pixels are -1 after the sign. The
    scales of the weights carry gradients. Only the scale of the first map is full
    precision.

    With ``tau > 1`` or ``groups > 1`` every convolution is a
    :class:`~mmesbnn.binary.ESConv2d`, which makes the copies of its input itself. The
    thresholds of the copies start at different values, evenly in ``[0, 2 spread]``. Binary
    multiplications and weight bits are those of
    ``tau = groups = 1``, which has no thresholds, as published.

    Args:
        in_channels: Channels of the maps of the backbone.
        out_channels: Channels of all maps. The maps of the backbone come first.
        level_strides: Stride of every extra map.
        level_paddings: Padding of every extra map, in pixels.
        *args: As ``SSDNeck``'s.
        tau: ES factor. Default 1, the baseline.
        groups: ES groups. Default 1.
        spread: Initial thresholds, see above. Default 0.5.
        sign: As :class:`BiDetVGG`'s. Default ``'quadratic'``.
        weight_binarizer: As :class:`BiDetVGG`'s.
        sign_zero: Value of sign(0): -1, or 0 as in the published code. Default -1. The
            first layer reads the output of a ReLU. Its signs are therefore in {-1, 1}
            with -1, and in {0, 1} with 0.
        norm_cfg: Config of the norms. Default ``dict(type='BN')``.
        init_cfg: mmengine initialisation configs. Default: Xavier normal, as published.
        **kwargs: As ``SSDNeck``'s.

    Raises:
        ValueError: At construction, if an argument is not as described, if the lengths of
            the lists do not match, or if ``tau`` or ``groups`` do not divide the channels;
            in training, if a map has a single pixel and the batch has a single image,
            because a norm cannot normalise a single value.

    Shape:
        ``(N, C_1, H, W), (N, C_2, H / 2, W / 2)`` to one map per entry of
        ``out_channels``.

    Source: Wang et al., "BiDet: An Efficient Binarized Object Detector" (CVPR 2020),
    and its code.
    """

    @checked_layer(
        in_channels=sequence(positive_int, shortest=1),
        out_channels=sequence(positive_int, shortest=1),
        level_strides=sequence(positive_int),
        level_paddings=sequence(natural),
        norm_cfg=optional(mapping(['type'])),
        init_cfg=optional(sequence(mapping())),
    )
    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        level_strides: Sequence[int],
        level_paddings: Sequence[int],
        *args: Any,
        tau: int = 1,
        groups: int = 1,
        spread: float = 0.5,
        sign: Any = 'quadratic',
        weight_binarizer: Any = WEIGHTS,
        sign_zero: int = -1,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_levels(in_channels, out_channels, level_strides, level_paddings)
        norm_cfg = norm_cfg or dict(type='BN')
        with naming('norm_cfg', norm_cfg):
            for width in out_channels[len(in_channels) :]:
                build_norm_layer(norm_cfg, width // 2), build_norm_layer(norm_cfg, width)
        conv_cfg = dict(type='BinaryConv2d', **bidet_conv(sign, weight_binarizer, sign_zero))
        expanded = Expansion(tau, groups).factor > 1
        if expanded:
            conv_cfg.update(type='ESConv2d', tau=tau, es_groups=groups, spread=spread)
        super().__init__(
            tuple(in_channels),
            tuple(out_channels),
            level_strides,
            level_paddings,
            *args,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=None,
            # a copy, because SSDNeck appends to it
            init_cfg=[XAVIER] if init_cfg is None else list(init_cfg),
            **kwargs,
        )
        if hasattr(self, 'l2_norm'):
            # mmdet leaves this memory uninitialised until init_weights
            nn.init.constant_(self.l2_norm.weight, self.l2_norm.scale)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Compute all maps from the maps of the backbone."""
        try:
            return super().forward(inputs)
        except ValueError as error:
            # else another error, such as a map of another width
            if len(inputs[0]) == 1 and 'more than 1 value' in str(error):
                raise ValueError(
                    'batch_size=1: the last map of SSD300 is a single pixel, and batch '
                    'norm needs at least two values in training: set '
                    'train_dataloader.batch_size to at least 2 (per GPU)'
                ) from error
            raise
