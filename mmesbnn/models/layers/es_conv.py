"""What ``conv_cfg=dict(type='ESConv2d', ...)`` builds."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.common_types import _size_2_t

from ...binary import DropInESConv2d
from ...binary.arguments import checked_layer


@checked_layer()
def es_conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: _size_2_t,
    stride: _size_2_t = 1,
    padding: _size_2_t = 0,
    dilation: _size_2_t = 1,
    groups: int = 1,
    bias: bool = False,
    *,
    es_groups: int | None = None,
    **kwargs: Any,
) -> nn.Module:
    """An ES convolution, or the plain one if the network asks for a grouped one.

    Registered as ``ESConv2d``, so that a network takes it by its ``conv_cfg``::

        conv_cfg = dict(type='ESConv2d', tau=2)

    ES replaces dense convolutions. Depthwise ones (``groups = in_channels``), as
    MobileNets have them, sum up so few products that the literature keeps them real,
    and so does this function: it returns an ``nn.Conv2d``, as
    :func:`mmesbnn.binary.binarize` leaves one. Other ``groups`` are the ES groups
    unless ``es_groups`` says what those are; then they are the network's own, and if
    there are more than one the convolution stays real as well. So write ``es_groups``
    for networks that build through mmcv's ``ConvModule`` or have grouped convolutions.

    Args:
        in_channels: ``C_i``.
        out_channels: ``C_o``.
        kernel_size: Size of the kernel in pixels.
        stride: Stride in pixels. Default 1.
        padding: Padding on each side in pixels. Default 0.
        dilation: Distance of the kernel's taps in pixels. Default 1.
        groups: ES groups, or with ``es_groups`` those of the network. Default 1.
        bias: Whether there is a real bias. Default False.
        es_groups: ES groups. Default: ``groups``.
        **kwargs: ``tau``, ``spread``, ``sign``, ... of :class:`DropInESConv2d`.

    Raises:
        ValueError: As :class:`DropInESConv2d`.
    """
    geometry = (in_channels, out_channels, kernel_size, stride, padding, dilation)
    depthwise = groups == in_channels > 1
    if depthwise or (es_groups is not None and groups > 1):
        return nn.Conv2d(*geometry, groups, bias)
    return DropInESConv2d(*geometry, groups, bias, es_groups=es_groups, **kwargs)
