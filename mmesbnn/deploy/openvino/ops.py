"""Binary convolutions and binary linear layers in OpenVINO's operators.

The CPU plugin runs ``FakeQuantize(levels=2)`` as a comparison whose results are bits, and
``BinaryConvolution`` as xor and popcount on them. Weights are ``u1`` constants of one bit
each, here and in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.opset1 import binary_convolution

from .kernel import Geometry
from .names import comparison_name, convolution_name
from .nodes import CHANNELS_FIRST, CHANNELS_LAST, constant, transposed

#: Bits that OpenVINO's kernel reads and writes at a time.
BYTE = 8


def bits(weight: np.ndarray) -> ov.Node:
    """Make a constant of one bit per entry, 1 where ``weight > 0``.

    Args:
        weight: ``(C_o, C_i, k_h, k_w)``.
    """
    packed = np.packbits(weight.reshape(-1) > 0, bitorder='little')
    tensor = ov.Tensor(packed, ov.Shape(weight.shape), ov.Type.u1)
    # a tensor of bits shares the array's memory, which is freed after this function
    return ov.op.Constant(tensor, shared_memory=False)


def binarize(x: ov.Output, threshold: np.ndarray | float, channels: int) -> ov.Node:
    """Compare ``x > threshold``, as bits for a binary convolution.

    Args:
        x: Map ``(N, C, H, W)``.
        threshold: One value per channel, or one for all.
        channels: ``C``.
    """
    # One threshold per channel, even if all are equal. OpenVINO moves a single threshold
    # across a reshape, and it then has five axes, but the kernel allows four.
    values = np.broadcast_to(np.asarray(threshold, np.float32).reshape(-1), channels)
    bound = constant(values.reshape(1, -1, 1, 1))
    return ops.fake_quantize(
        x,
        input_low=bound,
        input_high=bound,
        output_low=constant(0.0),
        output_high=constant(1.0),
        levels=2,
    )


def scale_of(weight: np.ndarray) -> np.ndarray:
    """Return the magnitude ``a`` of every output channel, whose entries are ``-a`` and ``a``.

    Args:
        weight: ``(C_o, ...)``, binary.
    """
    return np.abs(weight.reshape(len(weight), -1)[:, 0])


def scaled(y: ov.Node, scale: np.ndarray) -> ov.Node:
    """Multiply ``y`` by a factor per channel (axis 1), unless all factors are 1."""
    if (scale == 1).all():
        return y
    return ops.multiply(y, constant(scale.reshape(1, -1, 1, 1)))


def _split(x: ov.Output, parts: int) -> list[ov.Output]:
    if parts == 1:
        return [x]
    return ops.split(x, constant(1, np.int64), parts).outputs()


def _joined(parts: list[ov.Node]) -> ov.Node:
    return parts[0] if len(parts) == 1 else ops.concat(parts, 1)


def _pad(x: ov.Output, begin: Sequence[int], end: Sequence[int], value: float) -> ov.Output:
    """Pad every axis of ``x`` with ``value``."""
    return ops.pad(
        x, constant(begin, np.int64), constant(end, np.int64), 'constant', constant(value)
    ).output(0)


def float_conv(x: ov.Output, weight: np.ndarray, geometry: Geometry) -> ov.Node:
    """Convolve in full precision, for layers that are not binary.

    Args:
        x: Map ``(N, C, H, W)``.
        weight: ``(C_o, C_i / groups, k_h, k_w)``.
        geometry: Stride, padding, dilation, groups and padded value.
    """
    padding = geometry.padding
    if geometry.pad_value and any(padding):
        pads = [0, 0, *padding]
        x, padding = _pad(x, pads, pads, geometry.pad_value), (0, 0)
    parts = [
        ops.convolution(
            part,
            constant(kernels),
            strides=list(geometry.stride),
            pads_begin=list(padding),
            pads_end=list(padding),
            dilations=list(geometry.dilation),
        )
        for part, kernels in zip(_split(x, geometry.groups), np.split(weight, geometry.groups))
    ]
    return _joined(parts)


def _whole_bytes(x: ov.Output, kernels: np.ndarray) -> tuple[ov.Output, np.ndarray, float]:
    """Widen a convolution to a number of channels that fills whole bytes.

    OpenVINO's kernel computes other numbers of channels wrongly, without an error. The added
    channels are pairs with opposite weights and the same bit. They add nothing, also at the
    borders. An odd number of channels is doubled, and the result is halved.

    Returns:
        The map, the kernels, and the factor that the result must be multiplied by.
    """
    factor = 1.0
    if kernels.shape[1] % 2:
        x, factor = ops.concat([x, x], 1).output(0), 0.5
        kernels = np.concatenate([kernels, kernels], 1)
    missing = -kernels.shape[1] % BYTE
    if missing:
        x = _pad(x, [0, 0, 0, 0], [0, missing, 0, 0], 0.0)
        pair = np.ones((len(kernels), missing, *kernels.shape[2:]), kernels.dtype)
        pair[:, 1::2] = -1
        kernels = np.concatenate([kernels, pair], 1)
    return x, kernels, factor


def _padded(x: ov.Output, geometry: Geometry) -> tuple[ov.Output, Geometry]:
    """Pad the map with a value outside of all thresholds, with the sign of ``pad_value``.

    Returns:
        The padded map, and the remaining geometry.
    """
    pads = [0, 0, *geometry.padding]
    x = _pad(x, pads, pads, geometry.pad_value * float(np.finfo(np.float32).max))
    return x, replace(geometry, padding=(0, 0))


def binary_conv(
    x: ov.Output, weight: np.ndarray, geometry: Geometry, layer: str, pad_first: bool = False
) -> ov.Node:
    """Convolve the signs of ``x`` with binary weights.

    The result is ``scale * conv(sign(x), sign(weight))``. Groups are split, convolved one by
    one and concatenated, because OpenVINO's operator has no groups.

    Args:
        x: Map ``(N, C, H, W)``; only its signs matter.
        weight: Effective weight, ``-a`` and ``a`` per output channel.
        geometry: Stride, padding, dilation, groups and padded value.
        layer: Name of the layer.
        pad_first: Whether to pad the map before the kernel. The result for
            padded zeros is then the mean of the results for -1 and 1. Default False.
    """
    inputs = [(x, geometry)]
    if pad_first:
        values = [geometry.pad_value] if geometry.pad_value else [-1, 1]
        inputs = [_padded(x, replace(geometry, pad_value=value)) for value in values]
    ys: list[ov.Node] = []
    factor = 1.0
    for i, (padded, rest) in enumerate(inputs):
        y, factor = _convolved(padded, weight, rest, layer=layer, first=i * geometry.groups)
        ys.append(y)
    if len(ys) == 2:
        ys, factor = [ops.add(*ys)], 0.5 * factor
    return scaled(ys[0], factor * scale_of(weight))


def _convolved(
    x: ov.Output, weight: np.ndarray, geometry: Geometry, *, layer: str, first: int
) -> tuple[ov.Node, float]:
    """Convolve the signs of ``x`` with the signs of ``weight``, group by group.

    Args:
        x: Map ``(N, C, H, W)``.
        weight: Effective weight.
        geometry: Geometry; the kernel pads.
        layer: Name of the layer.
        first: Number of earlier convolutions of the layer.

    Returns:
        The result, and the factor that it must be multiplied by.
    """
    parts: list[ov.Node] = []
    factor = 1.0
    groups = zip(_split(x, geometry.groups), np.split(weight, geometry.groups))
    for index, (part, kernels) in enumerate(groups, start=first):
        part, kernels, factor = _whole_bytes(part, kernels)
        signs = binarize(part, 0.0, kernels.shape[1])
        signs.set_friendly_name(comparison_name(layer, index))
        # a padded value of 0 without padding costs time, and may be counted wrongly
        pad_value = geometry.pad_value if any(geometry.padding) else -1
        y = bit_convolution(signs, bits(kernels), geometry, pad_value)
        y.set_friendly_name(convolution_name(layer, index))
        parts.append(y)
    return _joined(parts), factor


def bit_convolution(x: ov.Node, weight: ov.Node, geometry: Geometry, pad_value: float) -> ov.Node:
    """Build OpenVINO's own operator, which has no groups.

    Args:
        x: Bits, see :func:`binarize`.
        weight: Bits, see :func:`bits`.
        geometry: Stride, padding and dilation.
        pad_value: Value of padded entries: -1, 0 or 1.
    """
    return binary_convolution(
        x,
        weight,
        strides=list(geometry.stride),
        pads_begin=list(geometry.padding),
        pads_end=list(geometry.padding),
        dilations=list(geometry.dilation),
        mode='xnor-popcount',
        pad_value=float(pad_value),
        auto_pad='explicit',
    )


def binary_linear(x: ov.Output, weight: np.ndarray, layer: str) -> ov.Node:
    """Multiply the signs of tokens ``(..., C)`` with binary weights, by a 1x1 convolution.

    Args:
        x: Two to four axes, the last one holding the features.
        weight: Effective weight ``(C_o, C_i)``.
        layer: Name of the layer.
    """
    rank = x.get_partial_shape().rank.get_length()
    missing: Any = constant(list(range(1, 5 - rank)), np.int64)
    if rank < 4:
        x = ops.unsqueeze(x, missing).output(0)
    y = binary_conv(transposed(x, CHANNELS_FIRST), weight[:, :, None, None], Geometry(), layer)
    y = ops.transpose(y, constant(CHANNELS_LAST, np.int64))
    return ops.squeeze(y, missing) if rank < 4 else y
