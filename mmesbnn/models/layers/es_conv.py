"""Builder of ``conv_cfg=dict(type='ESConv2d', ...)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.common_types import _size_2_t

from ...binary import BinaryOptions, ESConv2d
from ...binary.arguments import checked_layer
from ...binary.options import merged_options


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
    options: BinaryOptions | Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build an ES convolution, or an ``nn.Conv2d`` if ``groups > 1``.

    It is registered as ``ESConv2d``, so that a network uses it through ``conv_cfg``::

        conv_cfg = dict(type='ESConv2d', tau=2, es_groups=1)

    ES replaces dense convolutions. Grouped convolutions, such as the depthwise ones of
    MobileNet, sum few products, so the literature keeps them real. For these the
    function returns an ``nn.Conv2d``; :func:`mmesbnn.binary.binarize` keeps them, too.
    A ``groups`` in the ``conv_cfg`` itself looks the same as the network's: it makes
    convolutions grouped and real; ``tools/check_binary.py`` counts what is binary.

    Args:
        in_channels: ``C_i``.
        out_channels: ``C_o``.
        kernel_size: Size of the kernel in pixels.
        stride: Stride in pixels. Default 1.
        padding: Padding on each side in pixels. Default 0.
        dilation: Distance of the kernel's taps in pixels. Default 1.
        groups: Groups of the network's convolution, as in ``nn.Conv2d``. Default 1.
        bias: Whether there is a real bias. Default False.
        options: A :class:`mmesbnn.binary.BinaryOptions` or a mapping of its fields, in
            place of ``kwargs``. Default None.
        **kwargs: Single options: ``tau``, ``es_groups``, ``spread``, ``sign``, ...
            The initial gains of copies are those of the following norm, see
            ``CopyInitHook``.

    Raises:
        ValueError: As :class:`mmesbnn.binary.ESConv2d`.
    """
    if 'copy_init' in kwargs:
        raise ValueError(
            f'copy_init={kwargs["copy_init"]!r}: a drop-in layer has no gains of its own; '
            'the batch norm that reads it has them: add custom_hooks=[dict('
            "type='CopyInitHook', copy_init=...)]"
        )
    geometry = (in_channels, out_channels, kernel_size, stride, padding, dilation)
    if groups > 1:
        return nn.Conv2d(*geometry, groups, bias)
    chosen = merged_options(options, kwargs, BinaryOptions())
    return ESConv2d(*geometry, bias=bias, **chosen.arguments())
