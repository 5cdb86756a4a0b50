"""Rules of operators that need steps of their own: convolutions, means, comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov

from ..openvino.nodes import axes_in, const_value, key_of, rank_of
from ..runtime.program_maps import LARGEST_SUM
from .axes import NotCovered, named, per_channel, shape_of, split_shape
from .borders import compared_border
from .channel_rules import rearranged
from .expressions import MapValue
from .hinges import hinge_of, mean_of
from .network import Heavy, Value
from .translation import Translation
from .weights import bits_of, pack_binary, pack_real


def convolution(translation: Translation, node: ov.Node) -> Value:
    """Translate a real-valued convolution, with or without groups."""
    weight = const_value(node.input_value(1))
    if weight is None or len(shape_of(node.output(0))) != 4:
        raise NotCovered(f'{named(node)} has no constant weight of two dimensions')
    groups = 1
    if node.get_type_name() == 'GroupConvolution':
        groups, weight = len(weight), weight.reshape(-1, *weight.shape[2:])
    source = translation.network.stored(translation.value(node.input_value(0)))
    return _result(
        translation,
        node,
        'real_conv',
        source,
        'float',
        groups=groups,
        weights=pack_real(weight, groups),
        **_window(node, weight.shape[2:]),
    )


def matmul(translation: Translation, node: ov.Node) -> Value:
    """Translate a linear layer of one vector, which is a convolution of one pixel."""
    weight, attributes = const_value(node.input_value(1)), node.get_attributes()
    value, shape = translation.value(node.input_value(0)), shape_of(node.input_value(0))
    if weight is None or weight.ndim != 2 or attributes['transpose_a']:
        raise NotCovered(f'{named(node)} is no linear layer')
    # the last axis of a map (1, C.., H, W) is not its channels
    if len(shape) > 3 or math.prod(shape[:-1]) != 1:
        raise NotCovered(f'{named(node)} is a linear layer of an array {list(shape)}')
    weight = weight if attributes['transpose_b'] else weight.T
    one = (1, 1)
    return _result(
        translation,
        node,
        'real_conv',
        translation.network.stored(value),
        'float',
        groups=1,
        weights=pack_real(weight[:, :, None, None], 1),
        kernel=one,
        stride=one,
        padding=(0, 0),
        dilation=one,
    )


def binary_convolution(translation: Translation, node: ov.Node) -> Value:
    """Translate a convolution of bits."""
    source = translation.bits.get(key_of(node.input_value(0)))
    constant = node.input_value(1).get_node()
    if source is None or constant.get_type_name() != 'Constant':
        raise NotCovered(f'{named(node)} has no bits to read')
    weight = source.weights(bits_of(constant))
    if weight is None:
        raise NotCovered(f'{named(node)} has padded channels that count')
    window, pad_value = _window(node, weight.shape[2:]), source.pad_value
    if pad_value is None:
        pad_value = int(node.get_attributes()['pad_value'])
    elif any(window['padding']):
        raise NotCovered(f'{named(node)} pads a padded map')
    else:
        window['padding'] = source.begin
    number = 'int16' if weight[0].size <= LARGEST_SUM['int16'] else 'float'
    return _result(
        translation,
        node,
        'binary_conv',
        source.map,
        number,
        pad_value=pad_value,
        weights=pack_binary(weight),
        **window,
    )


def pool(translation: Translation, node: ov.Node) -> Value:
    """Translate the mean or maximum of windows."""
    attributes, maximum = node.get_attributes(), node.get_type_name() == 'MaxPool'
    if any(d != 1 for d in attributes.get('dilations', ())):
        raise NotCovered(f'{named(node)} is dilated')
    if rank_of(node.output(0)) != 4:
        raise NotCovered(f'{named(node)} is not of two dimensions')
    window = _window(node, attributes['kernel'])
    window.pop('dilation', None)
    counts = not maximum and not attributes['exclude-pad'] and any(window['padding'])
    if counts and any(attributes['pads_end']) and 'ceil' in attributes['rounding_type']:
        raise NotCovered(f'{named(node)} counts padded pixels beyond the map')
    value = translation.value(node.input_value(0))
    if not maximum and _is_tiling(window, shape_of(node.input_value(0))):
        axes, size = split_shape(shape_of(node.output(0)), node)
        to = MapValue('float', *size, math.prod(axes))
        translation.network.want('pool', value, to)
        return Value(translation.network.reading(to, axes), *size)
    return _result(
        translation,
        node,
        'pool',
        translation.network.stored(value),
        'float',
        maximum=maximum,
        count_padding=counts,
        **window,
    )


def _is_tiling(window: dict[str, Any], shape: Sequence[int]) -> bool:
    """Return true if the windows are adjacent and fill the map."""
    fills = all(side % k == 0 for side, k in zip(shape[-2:], window['kernel']))
    return fills and window['kernel'] == window['stride'] and not any(window['padding'])


def _window(node: ov.Node, kernel: Sequence[int]) -> dict[str, Any]:
    attributes = node.get_attributes()
    if attributes.get('auto_pad', 'explicit') not in ('explicit', 'valid'):
        raise NotCovered(f'{named(node)} pads by {attributes["auto_pad"]}')
    pair = {
        'kernel': tuple(int(k) for k in kernel),
        'stride': tuple(attributes['strides']),
        'padding': tuple(attributes['pads_begin']),
    }
    if 'dilations' in attributes:
        pair['dilation'] = tuple(attributes['dilations'])
    return dict(pair)


def _result(
    translation: Translation, node: ov.Node, kind: str, source: MapValue, number: str, **more: Any
) -> Value:
    """Add a heavy step and return its result."""
    axes, size = split_shape(shape_of(node.output(0)), node)
    to = MapValue(number, *size, math.prod(axes))
    weights = more.pop('weights', None)
    heavy = Heavy(kind, source, to, 0, to.channels, more, weights)
    to.writers.append(heavy)
    translation.network.heavy.append(heavy)
    return Value(translation.network.reading(to, axes), *size)


def mean(translation: Translation, node: ov.Node) -> Value:
    """Translate the mean over all pixels."""
    value, rank = translation.value(node.input_value(0)), rank_of(node.input_value(0))
    axes = axes_in(node.input_value(1), rank or 0)
    if rank is None or rank < 4 or axes is None or sorted(axes) != [rank - 2, rank - 1]:
        raise NotCovered(f'{named(node)} is a mean of other than pixels')
    shape = shape_of(node.input_value(0))[1:-2]
    hinge = hinge_of(translation.network.flat(value.expression))
    if hinge is not None:
        mean = mean_of(hinge, (value.height, value.width), translation.network)
        return rearranged(translation, Value(mean, 1, 1), lambda a: a.reshape(shape))
    to = MapValue('float', 1, 1, math.prod(shape))
    translation.network.want('mean', value, to)
    return Value(translation.network.reading(to, shape), 1, 1)


def compared(translation: Translation, node: ov.Node) -> None:
    """Translate a comparison to bits."""
    source = translation.with_border(node.input_value(0))
    low, high, zero, one = (const_value(node.input_value(i)) for i in range(1, 5))
    shape = shape_of(node.output(0))
    axes, _ = split_shape(shape, node)
    if low is None or high is None or zero is None or one is None:
        raise NotCovered(f'{named(node)} has limits that are not constant')
    if not np.array_equal(low, high):
        raise NotCovered(f'{named(node)} is not a comparison')
    if node.get_attributes()['levels'] != 2 or zero.any() or (one != 1).any():
        raise NotCovered(f'{named(node)} gives other than bits')
    limits = np.broadcast_to(per_channel(low, len(shape)), axes).ravel()
    value = source.value
    to = MapValue('bits', value.height, value.width, len(limits) - source.extra)
    bits = compared_border(source, limits, to)
    if bits is None:
        raise NotCovered(f'{named(node)} gives padding several signs')
    wanted = translation.network.want('bits', value, to)
    wanted.limit = translation.network.expressions.constant(limits[: to.channels])
    translation.bits[key_of(node.output(0))] = bits
