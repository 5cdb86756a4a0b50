"""Rules that change single operators to channels-last order.

A rule takes a node and the known maps. It builds the same operator on channels-last maps
and returns one map per output, or None if the rule does not cover the form of the node. The
node then does not change. :data:`RULES` maps operators to rules.

In the formulas ``x`` is a map ``(N, C, H, W)``, ``x'`` the same map as ``(N, H W, C)`` or,
with grouped channels, ``(N, H W, copies, C)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from .layout_map import ChannelsLastMap, KnownMaps, channels_of
from .nodes import axes_in, const_value, constant, copy_of, is_mean_of_pixels, reshaped, sizes_of

Rule = Callable[[ov.Node, KnownMaps], 'list[ChannelsLastMap] | None']

#: Operators that work entry by entry, for any order of the entries.
ELEMENTWISE = frozenset(
    (
        'Abs',
        'Add',
        'Ceiling',
        'Clamp',
        'Convert',
        'Divide',
        'Elu',
        'Equal',
        'Erf',
        'Exp',
        'Floor',
        'Gelu',
        'Greater',
        'GreaterEqual',
        'HSigmoid',
        'HSwish',
        'HardSigmoid',
        'Less',
        'LessEqual',
        'Log',
        'LogicalAnd',
        'LogicalNot',
        'LogicalOr',
        'Maximum',
        'Minimum',
        'Mish',
        'Multiply',
        'Negative',
        'NotEqual',
        'Power',
        'Relu',
        'Round',
        'Select',
        'Sigmoid',
        'Sign',
        'SoftPlus',
        'Sqrt',
        'SquaredDifference',
        'Subtract',
        'Swish',
        'Tanh',
    )
)


def _fitted(channels: tuple[int, ...], groups: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return groups of an operand's channels that broadcast to ``groups``, or None."""
    if math.prod(channels) == math.prod(groups):
        return groups
    if len(channels) == len(groups):
        return channels
    return (1,) * len(groups) if math.prod(channels) == 1 else None


def _operand(
    value: ov.Output, maps: KnownMaps, *, rank: int, groups: tuple[int, ...], pixels: int
) -> ov.Output | None:
    """Change an operand of an element-wise operator to channels-last order.

    Args:
        value: A map, a constant, or one pixel.
        maps: The known maps.
        rank: Number of axes of the operator's output.
        groups: Groups of channels of the maps it is combined with.
        pixels: ``H W`` of these maps.

    Returns:
        The operand, which broadcasts to ``(N, H W, *groups)``; None if this is impossible.
    """
    sizes, data = sizes_of(value), const_value(value)
    if sizes is None or (len(sizes) != rank and (data is None or len(sizes) > rank)):
        return None
    inner = [size for size in ([1] * (rank - len(sizes)) + sizes)[1:] if size is not None]
    if len(inner) != rank - 1:
        return None
    channels, area = _fitted(tuple(inner[:-2]), groups), math.prod(inner[-2:])
    form = maps.of(value)
    if channels is None:
        return None
    if form is not None:
        return form.grouped(channels)
    if area not in (1, pixels):
        return None
    if data is not None:
        return _constant_operand(data, rank, channels)
    # the entries of one pixel already have the right order
    return reshaped(value, 0, 1, *channels) if area == 1 else None


def _constant_operand(data: np.ndarray, rank: int, channels: tuple[int, ...]) -> ov.Output:
    """Return a constant ``(N, C.., H, W)`` as ``(N, H W, *channels)``."""
    shape: tuple[int, ...] = (1,) * (rank - data.ndim) + data.shape
    data, batch, (height, width) = data.reshape(shape), shape[0], shape[-2:]
    last = np.moveaxis(data, (-2, -1), (1, 2))
    shape = (batch, height * width, *channels)
    return ops.constant(np.ascontiguousarray(last).reshape(shape)).output(0)


def elementwise(node: ov.Node, maps: KnownMaps) -> list[ChannelsLastMap] | None:
    """Rewrite ``f(x, y, ..)`` as ``f(x', y', ..)``, with constants reordered.

    If all operands are constants and maps with the same groups, the groups stay. The operator
    itself then broadcasts a small map to its copies.
    """
    values, groups = node.input_values(), channels_of(node.output(0))
    rank = len(groups) + 3
    forms = [form for form in map(maps.of, values) if form is not None]
    first = forms[0]
    only_known = all(maps.of(v) is not None or const_value(v) is not None for v in values)
    if len(groups) == 1 and only_known and len({form.groups for form in forms}) == 1:
        groups = first.groups
    inputs = [
        _operand(value, maps, rank=rank, groups=groups, pixels=first.pixels) for value in values
    ]
    if any(x is None for x in inputs):
        return None
    return [ChannelsLastMap(copy_of(node, inputs)[0], groups, first.size)]


def prelu(node: ov.Node, maps: KnownMaps) -> list[ChannelsLastMap] | None:
    """Rewrite ``max(x, 0) + slope min(x, 0)``, with one slope or one per channel, for ``x'``."""
    x, slope = maps.of(node.input_value(0)), const_value(node.input_value(1))
    if x is None or slope is None or slope.size not in (1, x.channels):
        return None
    # OpenVINO would apply a slope with one axis to axis 1
    groups = x.groups if slope.size > 1 else (1,) * len(x.groups)
    inputs = [x.tensor, ops.constant(slope.reshape(1, 1, *groups))]
    return [ChannelsLastMap(copy_of(node, inputs)[0], x.groups, x.size)]


def regroup(node: ov.Node, maps: KnownMaps) -> list[ChannelsLastMap] | None:
    """Rewrite ``(N, C, H, W) -> (N, g, C / g, H, W)`` and back as other groups of ``x'``."""
    value, output = node.input_value(0), node.output(0)
    x, channels = maps.of(value), channels_of(output)
    before, after = value.get_partial_shape(), output.get_partial_shape()
    same = all(before[i] == after[i] for i in (0, -2, -1))
    if x is None or not same or math.prod(channels) != x.channels:
        return None
    groups = x.groups if len(channels) == 1 else channels
    return [ChannelsLastMap(x.grouped(groups), groups, x.size)]


def average_pooling(node: ov.Node, maps: KnownMaps) -> list[ChannelsLastMap] | None:
    """Rewrite ``avg_pool(x)`` of adjacent windows as ``depthwise_conv(x, 1 / (k_h k_w))``.

    The plugin runs average pooling in planes, and a depthwise convolution with channels
    last.
    """
    x, settings = maps.of(node.input_value(0)), node.get_attributes()
    kernel = list(settings['kernel'])
    is_padded = any((*settings['pads_begin'], *settings['pads_end']))
    if x is None or len(channels_of(node.output(0))) != 1:
        return None
    fits = all(size % step == 0 for size, step in zip(x.size, kernel))
    if is_padded or not fits or kernel != list(settings['strides']):
        return None
    weight = np.full((x.channels, 1, 1, *kernel), 1 / math.prod(kernel))
    pooled = ops.group_convolution(
        maps.planes(node.input_value(0)),
        constant(weight),
        strides=kernel,
        pads_begin=[0, 0],
        pads_end=[0, 0],
        dilations=[1, 1],
    )
    pooled.set_friendly_name(node.get_friendly_name())
    return [ChannelsLastMap.from_planes(pooled.output(0))]


def concatenation(node: ov.Node, maps: KnownMaps) -> list[ChannelsLastMap] | None:
    """Rewrite ``concat([x, y, ..], axis=1)`` as ``concat([x', y', ..], axis=2)``."""
    forms, channels = maps.all_of(node.input_values()), channels_of(node.output(0))
    axis = node.get_attributes()['axis'] % (len(channels) + 3)
    if forms is None or len(channels) > 1 or axis != 1:
        return None
    joined = ops.concat([form.flat() for form in forms], 2).output(0)
    return [ChannelsLastMap(joined, channels, forms[0].size)]


def _cut_along_channels(node: ov.Node, maps: KnownMaps, axes: int) -> ChannelsLastMap | None:
    """Return the map that ``node`` cuts along its channels, or None if it cuts another axis.

    Args:
        node: Node that cuts its first input.
        maps: The known maps.
        axes: Number of the input with the axes of the cut.
    """
    if len(channels_of(node.output(0))) != 1 or axes_in(node.input_value(axes), rank=4) != [1]:
        return None
    return maps.of(node.input_value(0))


def slicing(node: ov.Node, maps: KnownMaps) -> list[ChannelsLastMap] | None:
    """Rewrite ``slice(x, .., axes=[1])`` as ``slice(x', .., axes=[2])``."""
    x = _cut_along_channels(node, maps, axes=4) if node.get_input_size() == 5 else None
    if x is None:
        return None
    inputs = [x.flat(), *node.input_values()[1:4], constant([2], np.int64)]
    return [ChannelsLastMap(copy_of(node, inputs)[0], channels_of(node.output(0)), x.size)]


def splitting(node: ov.Node, maps: KnownMaps) -> list[ChannelsLastMap] | None:
    """Rewrite ``split(x, axis=1)`` as ``split(x', axis=2)``, for equal or unequal parts."""
    x = _cut_along_channels(node, maps, axes=1)
    if x is None:
        return None
    inputs = [x.flat(), constant(2, np.int64), *node.input_values()[2:]]
    return [
        ChannelsLastMap(part, channels_of(output), x.size)
        for part, output in zip(copy_of(node, inputs), node.outputs())
    ]


#: The rule of every operator that has one.
RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    'AvgPool': average_pooling,
    'Concat': concatenation,
    'PRelu': prelu,
    'Reshape': regroup,
    'Slice': slicing,
    'Split': splitting,
    'Squeeze': regroup,
    'Unsqueeze': regroup,
    'VariadicSplit': splitting,
}


def replace_mean_of_pixels(node: ov.Node, maps: KnownMaps) -> None:
    """Replace ``mean_hw(x)`` by ``mean_w(sum_h(x')) / H``.

    The result is not a map, so it replaces the node immediately.
    """
    x = maps.of(node.input_value(0))
    if x is None or not is_mean_of_pixels(node):
        return
    # Two steps of summation limit rounding errors. They use two different operators, because
    # the plugin would merge two equal ones.
    rows = ops.reduce_sum(x.image(), constant([1], np.int64), False)
    mean = ops.reduce_mean(rows, constant([1], np.int64), False)
    mean = ops.multiply(mean, constant(1 / x.size[0])).output(0)
    mean.get_node().set_friendly_name(node.get_friendly_name())
    if node.get_attributes()['keep_dims']:
        mean = reshaped(mean, 0, x.channels, 1, 1)
    node.output(0).replace(mean)
