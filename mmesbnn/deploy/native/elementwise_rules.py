"""Rules of operators that compute each entry by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import openvino as ov

from ..openvino.nodes import const_value, rank_of
from .axes import NotCovered, Pair, named, per_channel, shape_of, split_shape
from .expressions import Apply, Constant, Expression, Read
from .network import Value
from .translation import Translation


def elementwise(name: str, translation: Translation, node: ov.Node) -> Value:
    """Translate an operator of two operands."""
    axes, size = split_shape(shape_of(node.output(0)), node)
    rank = len(shape_of(node.output(0)))
    pair = [_operand(translation, output, rank) for output in node.input_values()]
    return _combined(translation, name, pair, axes, size)


def _operand(translation: Translation, output: ov.Output, rank: int) -> Value:
    """Return an operand of an elementwise operator, constant or not."""
    constant = const_value(output)
    if constant is not None:
        return Value(translation.network.expressions.constant(per_channel(constant, rank)), 1, 1)
    if rank_of(output) != rank:
        raise NotCovered(f'{named(output.get_node())} is used with an array of more axes')
    return translation.value(output)


def _combined(
    translation: Translation, name: str, pair: Sequence[Value], axes: tuple[int, ...], size: Pair
) -> Value:
    pixels = size[0] * size[1]
    expressions = []
    for value in pair:
        if value.pixels not in (1, pixels):
            raise NotCovered(f'{name} of maps of {value.pixels} and {pixels} pixels')
        x = translation.network.expressions.changed(
            value.expression, lambda a: np.broadcast_to(a, axes)
        )
        small = value.pixels < pixels
        expressions.append(translation.network.vector(replace(value, expression=x)) if small else x)
    a, b = expressions
    if name == 'mul':
        a, b = _with_one_factor(translation, a, b, pixels)
    return Value(translation.network.expressions.apply(name, a, b), *size)


def _with_one_factor(
    translation: Translation, a: Expression, b: Expression, pixels: int
) -> tuple[Expression, Expression]:
    """Multiply factors that are equal for all pixels once, not at each pixel."""

    def is_factor(x: Expression) -> bool:
        return isinstance(x, Constant) or (isinstance(x, Read) and x.map.pixels < pixels)

    if is_factor(a):
        a, b = b, a
    if not is_factor(b) or not isinstance(a, Apply) or a.name != 'mul':
        return a, b
    factors = [x for x in a.arguments if is_factor(x)]
    if not factors:
        return a, b
    other = a.arguments[1] if a.arguments[0] is factors[0] else a.arguments[0]
    product = Value(translation.network.expressions.apply('mul', factors[0], b), 1, 1)
    return other, translation.network.vector(product)


def prelu(translation: Translation, node: ov.Node) -> Value:
    """Translate a PReLU with a slope for each channel, or one."""
    x, slope = translation.value(node.input_value(0)), const_value(node.input_value(1))
    axes, size = split_shape(shape_of(node.output(0)), node)
    if slope is None or len(axes) != 1 or slope.shape not in ((1,), axes):
        raise NotCovered(f'{named(node)} has other than a constant slope for each channel')
    expressions = translation.network.expressions
    constant = expressions.constant(np.broadcast_to(slope, axes))
    return Value(expressions.apply('prelu', x.expression, constant), *size)


def bounded(
    translation: Translation, node: ov.Node, least: float | None, most: float | None
) -> Value:
    """Limit a value."""
    value = translation.value(node.input_value(0))
    axes, _ = split_shape(shape_of(node.output(0)), node)
    x, expressions = value.expression, translation.network.expressions
    for name, limit in (('max', least), ('min', most)):
        if limit is not None:
            x = expressions.apply(name, x, expressions.constant(np.full(axes, limit)))
    return replace(value, expression=x)


def clamp(translation: Translation, node: ov.Node) -> Value:
    """Translate a clamp."""
    attributes = node.get_attributes()
    return bounded(translation, node, float(attributes['min']), float(attributes['max']))


def sigmoid(translation: Translation, node: ov.Node) -> Value:
    """Translate a sigmoid."""
    value = translation.value(node.input_value(0))
    return replace(
        value, expression=translation.network.expressions.apply('sigmoid', value.expression)
    )


def negative(translation: Translation, node: ov.Node) -> Value:
    """Multiply a value by -1."""
    value = translation.value(node.input_value(0))
    axes, _ = split_shape(shape_of(node.output(0)), node)
    expressions = translation.network.expressions
    minus = expressions.constant(np.full(axes, -1.0))
    return replace(value, expression=expressions.apply('mul', value.expression, minus))
