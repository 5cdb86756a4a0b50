"""Rules of operators that arrange channels, or pad."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np
import openvino as ov

from ..openvino.nodes import axes_in, const_value, rank_of
from .axes import NotCovered, named, shape_of, split_shape
from .expressions import Expression, MapValue, Read
from .network import Heavy, Value
from .translation import Translation


def reshaped(translation: Translation, node: ov.Node) -> Value:
    """Translate a reshape of the axes of channels."""
    value = translation.value(node.input_value(0))
    axes, size = split_shape(shape_of(node.output(0)), node)
    if size != (value.height, value.width):
        raise NotCovered(f'{named(node)} changes more than channels')
    return rearranged(translation, value, lambda a: a.reshape(axes))


def rearranged(
    translation: Translation, value: Value, change: Callable[[np.ndarray], np.ndarray]
) -> Value:
    """Rearrange the channels of a value by a function of arrays of channels."""
    x = translation.network.expressions.changed(value.expression, change)
    return replace(value, expression=x)


def tile(translation: Translation, node: ov.Node) -> Value:
    """Translate a tile, which copies channels."""
    value, counts = translation.value(node.input_value(0)), const_value(node.input_value(1))
    rank = len(shape_of(node.output(0)))
    if counts is None or len(counts) != rank:
        raise NotCovered(f'{named(node)} has counts that are not known')
    axes, size = split_shape(counts.tolist(), node)
    if size != (1, 1):
        raise NotCovered(f'{named(node)} copies pixels')
    return rearranged(translation, value, lambda a: np.tile(a, axes))


def broadcast(translation: Translation, node: ov.Node) -> Value:
    """Translate a broadcast, which copies channels of axes of size 1."""
    value = translation.value(node.input_value(0))
    axes, size = split_shape(shape_of(node.output(0)), node)
    if size != (value.height, value.width):
        raise NotCovered(f'{named(node)} copies pixels')
    if rank_of(node.output(0)) != rank_of(node.input_value(0)):
        raise NotCovered(f'{named(node)} adds axes')
    return rearranged(translation, value, lambda a: np.broadcast_to(a, axes))


def sliced(translation: Translation, node: ov.Node) -> Value:
    """Translate a slice of the channels."""
    value = translation.value(node.input_value(0))
    rank = len(shape_of(node.input_value(0)))
    start, stop, step = (const_value(node.input_value(i)) for i in (1, 2, 3))
    axes = axes_in(node.input_value(4), rank) if node.get_input_size() > 4 else [0]
    if start is None or stop is None or step is None or axes != [1]:
        raise NotCovered(f'{named(node)} takes other than channels')
    part = slice(int(start[0]), int(stop[0]), int(step[0]))
    return rearranged(translation, value, lambda a: a[part])


def split(translation: Translation, node: ov.Node) -> None:
    """Translate a split of the channels."""
    source = translation.with_border(node.input_value(0))
    value, along = source.value, const_value(node.input_value(1))
    rank = rank_of(node.input_value(0))
    if source.extra:
        raise NotCovered(f'{named(node)} splits padded channels')
    if along is None or rank is None or int(along) % rank != 1:
        raise NotCovered(f'{named(node)} splits other than channels')
    value = translation.network.kept(value)
    start = 0
    for output in node.outputs():
        count = shape_of(output)[1]
        part = rearranged(translation, value, itemgetter(slice(start, start + count)))
        translation.keep_border(output, replace(source, value=part))
        start += count


def pad(translation: Translation, node: ov.Node) -> None:
    """Translate padding before a comparison."""
    source = translation.with_border(node.input_value(0)).padded(node)
    if source is None:
        raise NotCovered(f'{named(node)} pads other than pixels or the last channels')
    translation.keep_border(node.output(0), source)


def concat(translation: Translation, node: ov.Node) -> Value:
    """Translate a concatenation of channels."""
    rank = rank_of(node.output(0))
    values = [translation.value(output) for output in node.input_values()]
    if node.get_attributes()['axis'] % (rank or 1) != 1:
        raise NotCovered(f'{named(node)} joins other than channels')
    joined = translation.network.expressions.joined([v.expression for v in values], 0)
    if joined is None:
        joined = _joined_results(translation, node, values)
    if joined is None:
        joined = _joined_maps(translation, node, values)
    return replace(values[0], expression=joined)


def _joined_results(
    translation: Translation, node: ov.Node, values: Sequence[Value]
) -> Expression | None:
    """Let convolutions write to one map, if nothing else reads their results."""
    maps = [x.map for x in (v.expression for v in values) if isinstance(x, Read) and x.is_whole]
    heavy = [one for each in maps for one in each.writers if isinstance(one, Heavy)]
    if len(maps) < len(values) or len({each.kind for each in maps}) > 1:
        return None
    if not all(translation.is_read_once(*pair) for pair in zip(node.input_values(), maps)):
        return None
    if len(heavy) != len(maps) or any(len(each.writers) != 1 for each in maps):
        return None
    if any(one.weights is None for one in heavy):  # a pool writes all channels of its map
        return None
    axes, _ = split_shape(shape_of(node.output(0)), node)
    to = MapValue(maps[0].kind, values[0].height, values[0].width, math.prod(axes))
    at = 0
    for one in heavy:
        one.to, one.at = to, at
        to.writers.append(one)
        at += one.channels
    return translation.network.reading(to, axes)


def _joined_maps(translation: Translation, node: ov.Node, values: Sequence[Value]) -> Expression:
    """Let sweeps write to parts of one map."""
    axes, _ = split_shape(shape_of(node.output(0)), node)
    to = MapValue('float', values[0].height, values[0].width, math.prod(axes))
    at = 0
    for value in values:
        at += translation.network.want('store', value, to, at).channels
    return translation.network.reading(to, axes)
