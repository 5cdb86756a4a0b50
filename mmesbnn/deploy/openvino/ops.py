"""Binary convolutions and binary linear layers, said in OpenVINO's operators.

OpenVINO's CPU plugin runs ``FakeQuantize(levels=2)`` as a comparison whose results are
bits, and ``BinaryConvolution`` as xor and popcount on them. Weights are ``u1``
constants, one bit each, here and in the IR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.opset1 import binary_convolution
from openvino.utils.node_factory import NodeFactory

from .kernel import Geometry

#: Prefix of the names of nodes that turn a map into bits.
BINARIZE = 'mmesbnn.binarize'

#: Bits that OpenVINO's kernel reads and writes at a time.
BYTE = 8

CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def constant(value: Any, dtype: Any = np.float32) -> ov.Node:
    """A constant with a copy of ``value``."""
    return ops.constant(np.asarray(value, dtype))


def copy_of(node: ov.Node, inputs: Sequence[Any], **attributes: Any) -> list[ov.Output]:
    """Outputs of the same operator on other inputs, ``attributes`` changed."""
    kind = node.get_type_info()
    new = NodeFactory(kind.version_id).create(
        kind.name, list(inputs), {**node.get_attributes(), **attributes}
    )
    new.set_friendly_name(node.get_friendly_name())
    return new.outputs()


def bits(weight: np.ndarray) -> ov.Node:
    """Constant of one bit per entry, 1 where ``weight > 0``.

    Args:
        weight: ``(C_o, C_i, k_h, k_w)``.
    """
    packed = np.packbits(weight.reshape(-1) > 0, bitorder='little')
    tensor = ov.Tensor(packed, ov.Shape(weight.shape), ov.Type.u1)
    # a tensor of bits shares the array's memory, which ends with this function
    return ov.op.Constant(tensor, shared_memory=False)


def binarize(x: ov.Output, threshold: np.ndarray | float, channels: int) -> ov.Node:
    """Bits of ``x > threshold``, for a binary convolution.

    Args:
        x: Map ``(N, C, H, W)``.
        threshold: One value per channel, or one for all.
        channels: ``C``.
    """
    # one per channel also where all are equal: OpenVINO moves a single one across a
    # reshaping, and then it has five axes where the kernel takes four
    values = np.broadcast_to(np.asarray(threshold, np.float32).reshape(-1), channels)
    bound = constant(values.reshape(1, -1, 1, 1))
    return ops.fake_quantize(x, bound, bound, constant(0.0), constant(1.0), levels=2)


def scale_of(weight: np.ndarray) -> np.ndarray:
    """The magnitude ``a`` of every output channel, whose entries are ``-a`` and ``a``.

    Args:
        weight: ``(C_o, ...)``, binary.
    """
    return np.abs(weight.reshape(len(weight), -1)[:, 0])


def scaled(y: ov.Node, scale: np.ndarray) -> ov.Node:
    """``y`` times a factor per channel (axis 1); ``y`` itself if all are 1."""
    if (scale == 1).all():
        return y
    return ops.multiply(y, constant(scale.reshape(1, -1, 1, 1)))


def _split(x: ov.Output, parts: int) -> list[ov.Output]:
    if parts == 1:
        return [x]
    return ops.split(x, constant(1, np.int64), parts).outputs()


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else ops.concat(parts, 1)


def float_conv(x: ov.Output, weight: np.ndarray, geometry: Geometry) -> ov.Node:
    """The same convolution in full precision, for layers that are not binary."""
    vertical, horizontal = padding = geometry.padding
    if geometry.pad_value and any(padding):
        pads = constant([0, 0, vertical, horizontal], np.int64)
        x = ops.pad(x, pads, pads, 'constant', constant(geometry.pad_value))
        padding = (0, 0)
    parts = [
        ops.convolution(
            part,
            constant(kernels),
            list(geometry.stride),
            list(padding),
            list(padding),
            list(geometry.dilation),
        )
        for part, kernels in zip(_split(x, geometry.groups), np.split(weight, geometry.groups))
    ]
    return _joined(parts)


def _whole_bytes(x: ov.Output, kernels: np.ndarray) -> tuple[ov.Output, np.ndarray, float]:
    """A convolution of as many channels as make whole bytes, and a factor for it.

    OpenVINO's kernel is wrong for other numbers, without a word. Channels that are
    added come in pairs, with opposite weights and the same bit, so they add nothing,
    at the borders neither. An odd number of channels is taken twice, and halved.
    """
    factor = 1.0
    if kernels.shape[1] % 2:
        x, factor = ops.concat([x, x], 1).output(0), 0.5
        kernels = np.concatenate([kernels, kernels], 1)
    missing = -kernels.shape[1] % BYTE
    if missing:
        begin, end = constant([0] * 4, np.int64), constant([0, missing, 0, 0], np.int64)
        x = ops.pad(x, begin, end, 'constant', constant(0.0)).output(0)
        pair = np.ones((len(kernels), missing, *kernels.shape[2:]), kernels.dtype)
        pair[:, 1::2] = -1
        kernels = np.concatenate([kernels, pair], 1)
    return x, kernels, factor


def _padded(x: ov.Output, geometry: Geometry) -> tuple[ov.Output, Geometry]:
    """The map, padded with what lies beyond any threshold on ``pad_value``'s side."""
    vertical, horizontal = geometry.padding
    pads = constant([0, 0, vertical, horizontal], np.int64)
    value = constant(geometry.pad_value * np.finfo(np.float32).max)
    x = ops.pad(x, pads, pads, 'constant', value).output(0)
    return x, replace(geometry, padding=(0, 0))


def binary_conv(
    x: ov.Output, weight: np.ndarray, geometry: Geometry, name: str, pad_first: bool = False
) -> ov.Node:
    """Binary convolution of the signs of ``x``, times the weight's scale.

    Groups are split, convolved one by one and concatenated: the operator has none.

    Args:
        x: Map ``(N, C, H, W)``, whatever has the right signs.
        weight: Effective weight, ``-a`` and ``a`` per output channel.
        geometry: Stride, padding, dilation, groups and padded value.
        name: Name of the layer.
        pad_first: Whether to pad the map rather than let the kernel do it. Zeros then
            are the mean of -1 and 1, of two convolutions. Default False.
    """
    ways = [(x, geometry)]
    if pad_first:
        values = [geometry.pad_value] if geometry.pad_value else [-1, 1]
        ways = [_padded(x, replace(geometry, pad_value=value)) for value in values]
    ys: list[ov.Node] = []
    factor = 1.0
    for i, (padded, unpadded) in enumerate(ways):
        y, factor = _convolved(padded, weight, unpadded, name, i * geometry.groups)
        ys.append(y)
    if len(ys) == 2:
        ys, factor = [ops.add(*ys)], 0.5 * factor
    return scaled(ys[0], factor * scale_of(weight))


def _convolved(
    x: ov.Output, weight: np.ndarray, geometry: Geometry, name: str, first: int
) -> tuple[ov.Node, float]:
    """The convolution by the signs of ``weight``, and a factor for it.

    Args:
        x: As of :func:`binary_conv`, as the rest.
        weight: Effective weight.
        geometry: Padded by the kernel.
        name: Name of the layer.
        first: Number of its first convolution.
    """
    parts: list[ov.Node] = []
    factor = 1.0
    for part, kernels in zip(_split(x, geometry.groups), np.split(weight, geometry.groups)):
        part, kernels, factor = _whole_bytes(part, kernels)
        signs = binarize(part, 0.0, kernels.shape[1])
        signs.set_friendly_name(f'{BINARIZE}:{name}#{first + len(parts)}')
        # zeros that are not padded cost time, and may be counted wrongly
        value = geometry.pad_value if any(geometry.padding) else -1
        y = bit_convolution(signs, bits(kernels), geometry, value)
        y.set_friendly_name(f'{name}#{first + len(parts)}')
        parts.append(y)
    return _joined(parts), factor


def bit_convolution(x: ov.Node, weight: ov.Node, geometry: Geometry, pad_value: float) -> ov.Node:
    """OpenVINO's operator itself, without groups."""
    pads: Sequence[int] = list(geometry.padding)
    return binary_convolution(
        x,
        weight,
        list(geometry.stride),
        pads,
        pads,
        list(geometry.dilation),
        'xnor-popcount',
        float(pad_value),
        'explicit',
    )


def binary_linear(x: ov.Output, weight: np.ndarray, name: str) -> ov.Node:
    """Binary linear layer of tokens ``(..., C)``: a 1x1 convolution of a map.

    Args:
        x: Two to four axes, the last one holding the features.
        weight: Effective weight ``(C_o, C_i)``.
        name: Name of the layer.
    """
    rank = x.get_partial_shape().rank.get_length()
    missing = constant(list(range(1, 5 - rank)), np.int64)
    if rank < 4:
        x = ops.unsqueeze(x, missing).output(0)
    x = ops.transpose(x, constant(CHANNELS_FIRST, np.int64)).output(0)
    y = binary_conv(x, weight[:, :, None, None], Geometry(), name)
    y = ops.transpose(y, constant(CHANNELS_LAST, np.int64))
    return ops.squeeze(y, missing) if rank < 4 else y
