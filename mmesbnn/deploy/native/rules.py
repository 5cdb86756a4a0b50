"""Rules that translate each operator of a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np
import openvino as ov

from ..openvino.nodes import axes_in, const_value, key_of, rank_of
from ..runtime.program import LARGEST_SUM
from .borders import Bits, Bordered, compared_border
from .expressions import Apply, Constant, Expression, MapValue, Read, channels_of
from .hinges import hinge_of, mean_of
from .network import Heavy, Network, Value
from .weights import bits_of, pack_binary, pack_real

Pair = tuple[int, int]


class NotCovered(Exception):
    """A graph that the native library cannot run; the message says why."""


def shape_of(output: ov.Output) -> tuple[int, ...]:
    """Return the shape of an output, which must be known."""
    shape = output.get_partial_shape()
    if shape.is_dynamic:
        raise NotCovered(f'{output.get_node().get_friendly_name()} has no fixed shape')
    return tuple(size.get_length() for size in shape)


def split_shape(shape: Sequence[int], node: ov.Node) -> tuple[tuple[int, ...], Pair]:
    """Return the axes of channels of a shape ``(1, C.., H, W)`` or ``(1, C)``, and (H, W)."""
    if len(shape) < 2 or shape[0] != 1 or 0 in shape:
        raise NotCovered(f'{_named(node)} has the shape {list(shape)}')
    if len(shape) < 4:
        return tuple(shape[1:]), (1, 1)
    return tuple(shape[1:-2]), (shape[-2], shape[-1])


def _named(node: ov.Node) -> str:
    return f'{node.get_type_name()} {node.get_friendly_name()}'


def _per_channel(constant: np.ndarray, rank: int) -> np.ndarray:
    """Return a constant that is equal for all pixels, with its axes of channels only.

    Args:
        constant: The constant, whose axes are the last of ``rank`` axes.
        rank: Number of axes of the map that it is used with.
    """
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if rank >= 4 and shape[-2:] != (1, 1):
        raise NotCovered(f'a constant of the shape {shape} differs from pixel to pixel')
    if shape[0] != 1:
        raise NotCovered(f'a constant of the shape {shape}')
    return constant.reshape(shape[1:-2] if rank >= 4 else shape[1:])


def _is_tiling(window: dict[str, Any], shape: Sequence[int]) -> bool:
    """Return true if the windows are adjacent and fill the map."""
    fills = all(side % k == 0 for side, k in zip(shape[-2:], window['kernel']))
    return fills and window['kernel'] == window['stride'] and not any(window['padding'])


class Rules:
    """Translator of a graph, node by node in its order.

    Attributes:
        network: Result so far.
    """

    def __init__(self) -> None:
        self.network = Network()
        self._values: dict[tuple[str, int], Value] = {}
        self._bits: dict[tuple[str, int], Bits] = {}
        self._bordered: dict[tuple[str, int], Bordered] = {}

    def follow(self, graph: ov.Model) -> Network:
        """Translate a whole graph.

        Args:
            graph: For one image; its binary convolutions read comparisons.

        Raises:
            NotCovered: If there is no rule for an operator.
        """
        for node in graph.get_ordered_ops():
            kind = node.get_type_name()
            if kind in ('Constant', 'Result'):
                continue
            if kind not in _RULES:
                raise NotCovered(f'no native form of {_named(node)}')
            value = _RULES[kind](self, node)
            if value is not None:
                self._keep(node, value)
        if self.network.image is None or not graph.outputs:
            raise NotCovered('the network has no input or no output')
        for node in graph.get_results():
            self.result(node)
        return self.network

    def _keep(self, node: ov.Node, value: Value) -> None:
        axes, size = split_shape(shape_of(node.output(0)), node)
        # the same numbers can be channels for a rule and pixels for the next one
        if (channels_of(value.expression), (value.height, value.width)) != (axes, size):
            raise NotCovered(f'{_named(node)} makes pixels of channels, or the reverse')
        if len(node.output(0).get_target_inputs()) > 1:
            value = self.network.kept(value)
        self._values[key_of(node.output(0))] = value

    def value(self, output: ov.Output) -> Value:
        """Return the value of an output."""
        try:
            return self._values[key_of(output)]
        except KeyError:
            raise NotCovered(
                f'{_named(output.get_node())} is read by what needs a map of numbers'
            ) from None

    def _operand(self, output: ov.Output, rank: int) -> Value:
        """Return an operand of an elementwise operator, constant or not."""
        constant = const_value(output)
        if constant is not None:
            return Value(self.network.expressions.constant(_per_channel(constant, rank)), 1, 1)
        if rank_of(output) != rank:
            raise NotCovered(f'{_named(output.get_node())} is used with an array of more axes')
        return self.value(output)

    def parameter(self, node: ov.Node) -> Value:
        """Translate the input image."""
        axes, (height, width) = split_shape(shape_of(node.output(0)), node)
        if self.network.image is not None:
            raise NotCovered('the network takes more than one image')
        if len(axes) != 1:
            raise NotCovered(f'{_named(node)} is not an image of the shape (N, C, H, W)')
        image = MapValue('float', height, width, axes[0])
        self.network.image = image
        return Value(self.network.reading(image, axes), height, width)

    def result(self, node: ov.Node) -> None:
        """Translate an output. Outputs keep their order in the graph."""
        self.network.outputs.append(self.network.stored(self.value(node.input_value(0))))

    def elementwise(self, name: str, node: ov.Node) -> Value:
        """Translate an operator of two operands."""
        axes, size = split_shape(shape_of(node.output(0)), node)
        rank = len(shape_of(node.output(0)))
        pair = [self._operand(output, rank) for output in node.input_values()]
        return self._combined(name, pair, axes, size)

    def _combined(
        self, name: str, pair: Sequence[Value], axes: tuple[int, ...], size: Pair
    ) -> Value:
        pixels = size[0] * size[1]
        expressions = []
        for value in pair:
            if value.pixels not in (1, pixels):
                raise NotCovered(f'{name} of maps of {value.pixels} and {pixels} pixels')
            small = value.pixels < pixels
            x = self.network.vector(value) if small else value.expression
            expressions.append(
                self.network.expressions.changed(x, lambda a: np.broadcast_to(a, axes))
            )
        a, b = expressions
        if name == 'mul':
            a, b = self._with_one_factor(a, b, pixels)
        return Value(self.network.expressions.apply(name, a, b), *size)

    def _with_one_factor(
        self, a: Expression, b: Expression, pixels: int
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
        product = Value(self.network.expressions.apply('mul', factors[0], b), 1, 1)
        return other, self.network.vector(product)

    def prelu(self, node: ov.Node) -> Value:
        """Translate a PReLU with a slope for each channel, or one."""
        x, slope = self.value(node.input_value(0)), const_value(node.input_value(1))
        axes, size = split_shape(shape_of(node.output(0)), node)
        if slope is None or len(axes) != 1 or slope.shape not in ((1,), axes):
            raise NotCovered(f'{_named(node)} has other than a constant slope for each channel')
        expressions = self.network.expressions
        constant = expressions.constant(np.broadcast_to(slope, axes))
        return Value(expressions.apply('prelu', x.expression, constant), *size)

    def bounded(self, node: ov.Node, least: float | None, most: float | None) -> Value:
        """Limit a value."""
        value = self.value(node.input_value(0))
        axes, _ = split_shape(shape_of(node.output(0)), node)
        x, expressions = value.expression, self.network.expressions
        for name, limit in (('max', least), ('min', most)):
            if limit is not None:
                x = expressions.apply(name, x, expressions.constant(np.full(axes, limit)))
        return replace(value, expression=x)

    def sigmoid(self, node: ov.Node) -> Value:
        """Translate a sigmoid."""
        value = self.value(node.input_value(0))
        return replace(
            value, expression=self.network.expressions.apply('sigmoid', value.expression)
        )

    def reshaped(self, node: ov.Node) -> Value:
        """Translate a reshape of the axes of channels."""
        value = self.value(node.input_value(0))
        axes, size = split_shape(shape_of(node.output(0)), node)
        if size != (value.height, value.width):
            raise NotCovered(f'{_named(node)} changes more than channels')
        return self._rearranged(value, lambda a: a.reshape(axes))

    def _rearranged(self, value: Value, change: Callable[[np.ndarray], np.ndarray]) -> Value:
        x = self.network.expressions.changed(value.expression, change)
        return replace(value, expression=x)

    def tile(self, node: ov.Node) -> Value:
        """Translate a tile, which copies channels."""
        value, counts = self.value(node.input_value(0)), const_value(node.input_value(1))
        rank = len(shape_of(node.output(0)))
        if counts is None or len(counts) != rank:
            raise NotCovered(f'{_named(node)} has counts that are not known')
        axes, size = split_shape(counts.tolist(), node)
        if size != (1, 1):
            raise NotCovered(f'{_named(node)} copies pixels')
        return self._rearranged(value, lambda a: np.tile(a, axes))

    def slice(self, node: ov.Node) -> Value:
        """Translate a slice of the channels."""
        value = self.value(node.input_value(0))
        rank = len(shape_of(node.input_value(0)))
        start, stop, step = (const_value(node.input_value(i)) for i in (1, 2, 3))
        axes = axes_in(node.input_value(4), rank) if node.get_input_size() > 4 else [0]
        if start is None or stop is None or step is None or axes != [1]:
            raise NotCovered(f'{_named(node)} takes other than channels')
        part = slice(int(start[0]), int(stop[0]), int(step[0]))
        return self._rearranged(value, lambda a: a[part])

    def split(self, node: ov.Node) -> None:
        """Translate a split of the channels."""
        source = self._with_border(node.input_value(0))
        value, along = source.value, const_value(node.input_value(1))
        rank = rank_of(node.input_value(0))
        if source.extra:
            raise NotCovered(f'{_named(node)} splits padded channels')
        if along is None or rank is None or int(along) % rank != 1:
            raise NotCovered(f'{_named(node)} splits other than channels')
        value = self.network.kept(value)
        start = 0
        for output in node.outputs():
            count = shape_of(output)[1]
            part = self._rearranged(value, itemgetter(slice(start, start + count)))
            self._keep_border(output, replace(source, value=part))
            start += count

    def _with_border(self, output: ov.Output) -> Bordered:
        """Return the value of an output for operators that also take padded maps."""
        return self._bordered.get(key_of(output)) or Bordered(self.value(output))

    def _keep_border(self, output: ov.Output, result: Bordered) -> None:
        """Keep a result; one with padding is kept for operators that take it."""
        if result.outside is None and not result.extra:
            self._values[key_of(output)] = result.value
        else:
            self._bordered[key_of(output)] = result

    def pad(self, node: ov.Node) -> None:
        """Translate padding before a comparison."""
        source = self._with_border(node.input_value(0)).padded(node)
        if source is None:
            raise NotCovered(f'{_named(node)} pads other than pixels or the last channels')
        self._keep_border(node.output(0), source)

    def concat(self, node: ov.Node) -> Value:
        """Translate a concatenation of channels."""
        rank = rank_of(node.output(0))
        values = [self.value(output) for output in node.input_values()]
        if node.get_attributes()['axis'] % (rank or 1) != 1:
            raise NotCovered(f'{_named(node)} joins other than channels')
        joined = self.network.expressions.joined([v.expression for v in values], 0)
        if joined is None:
            joined = self._joined_results(node, values)
        if joined is None:
            joined = self._joined_maps(node, values)
        return replace(values[0], expression=joined)

    def _joined_results(self, node: ov.Node, values: Sequence[Value]) -> Expression | None:
        """Let convolutions write to one map, if nothing else reads their results."""
        maps = [x.map for x in (v.expression for v in values) if isinstance(x, Read) and x.is_whole]
        heavy = [one for each in maps for one in each.writers if isinstance(one, Heavy)]
        once = all(len(o.get_target_inputs()) == 1 for o in node.input_values())
        if len(maps) < len(values) or not once or len({each.kind for each in maps}) > 1:
            return None
        if len(heavy) != len(maps) or any(len(each.writers) != 1 for each in maps):
            return None
        axes, _ = split_shape(shape_of(node.output(0)), node)
        to = MapValue(maps[0].kind, values[0].height, values[0].width, math.prod(axes))
        at = 0
        for one in heavy:
            one.to, one.at = to, at
            to.writers.append(one)
            at += one.channels
        return self.network.reading(to, axes)

    def _joined_maps(self, node: ov.Node, values: Sequence[Value]) -> Expression:
        """Let sweeps write to parts of one map."""
        axes, _ = split_shape(shape_of(node.output(0)), node)
        to = MapValue('float', values[0].height, values[0].width, math.prod(axes))
        at = 0
        for value in values:
            at += self.network.want('store', value, to, at).channels
        return self.network.reading(to, axes)

    def mean(self, node: ov.Node) -> Value:
        """Translate the mean over all pixels."""
        value, rank = self.value(node.input_value(0)), rank_of(node.input_value(0))
        axes = axes_in(node.input_value(1), rank or 0)
        if rank is None or rank < 4 or axes is None or sorted(axes) != [rank - 2, rank - 1]:
            raise NotCovered(f'{_named(node)} is a mean of other than pixels')
        shape = shape_of(node.input_value(0))[1:-2]
        hinge = hinge_of(self.network.flat(value.expression))
        if hinge is not None:
            mean = mean_of(hinge, (value.height, value.width), self.network)
            return self._rearranged(Value(mean, 1, 1), lambda a: a.reshape(shape))
        to = MapValue('float', 1, 1, math.prod(shape))
        self.network.want('mean', value, to)
        return Value(self.network.reading(to, shape), 1, 1)

    def compared(self, node: ov.Node) -> None:
        """Translate a comparison to bits."""
        source = self._with_border(node.input_value(0))
        low, high, zero, one = (const_value(node.input_value(i)) for i in range(1, 5))
        shape = shape_of(node.output(0))
        axes, _ = split_shape(shape, node)
        if low is None or high is None or zero is None or one is None:
            raise NotCovered(f'{_named(node)} has limits that are not constant')
        if not np.array_equal(low, high):
            raise NotCovered(f'{_named(node)} is not a comparison')
        if node.get_attributes()['levels'] != 2 or zero.any() or (one != 1).any():
            raise NotCovered(f'{_named(node)} gives other than bits')
        limits = np.broadcast_to(_per_channel(low, len(shape)), axes).ravel()
        value = source.value
        to = MapValue('bits', value.height, value.width, len(limits) - source.extra)
        bits = compared_border(source, limits, to)
        if bits is None:
            raise NotCovered(f'{_named(node)} gives padding several signs')
        wanted = self.network.want('bits', value, to)
        wanted.limit = self.network.expressions.constant(limits[: to.channels])
        self._bits[key_of(node.output(0))] = bits

    def _window(self, node: ov.Node, kernel: Sequence[int]) -> dict[str, Any]:
        attributes = node.get_attributes()
        if attributes.get('auto_pad', 'explicit') not in ('explicit', 'valid'):
            raise NotCovered(f'{_named(node)} pads by {attributes["auto_pad"]}')
        pair = {
            'kernel': tuple(int(k) for k in kernel),
            'stride': tuple(attributes['strides']),
            'padding': tuple(attributes['pads_begin']),
        }
        if 'dilations' in attributes:
            pair['dilation'] = tuple(attributes['dilations'])
        return dict(pair)

    def _result(
        self, node: ov.Node, kind: str, source: MapValue, number: str, **more: Any
    ) -> Value:
        """Add a heavy step and return its result."""
        axes, size = split_shape(shape_of(node.output(0)), node)
        to = MapValue(number, *size, math.prod(axes))
        weights = more.pop('weights', None)
        heavy = Heavy(kind, source, to, 0, to.channels, more, weights)
        to.writers.append(heavy)
        self.network.heavy.append(heavy)
        return Value(self.network.reading(to, axes), *size)

    def convolution(self, node: ov.Node) -> Value:
        """Translate a real-valued convolution, with or without groups."""
        weight = const_value(node.input_value(1))
        if weight is None or len(shape_of(node.output(0))) != 4:
            raise NotCovered(f'{_named(node)} has no constant weight of two dimensions')
        groups = 1
        if node.get_type_name() == 'GroupConvolution':
            groups, weight = len(weight), weight.reshape(-1, *weight.shape[2:])
        source = self.network.stored(self.value(node.input_value(0)))
        return self._result(
            node,
            'real_conv',
            source,
            'float',
            groups=groups,
            weights=pack_real(weight, groups),
            **self._window(node, weight.shape[2:]),
        )

    def matmul(self, node: ov.Node) -> Value:
        """Translate a linear layer of one vector, which is a convolution of one pixel."""
        weight, attributes = const_value(node.input_value(1)), node.get_attributes()
        value, shape = self.value(node.input_value(0)), shape_of(node.input_value(0))
        if weight is None or weight.ndim != 2 or attributes['transpose_a']:
            raise NotCovered(f'{_named(node)} is no linear layer')
        # the last axis of a map (1, C.., H, W) is not its channels
        if len(shape) > 3 or math.prod(shape[:-1]) != 1:
            raise NotCovered(f'{_named(node)} is a linear layer of an array {list(shape)}')
        weight = weight if attributes['transpose_b'] else weight.T
        one = (1, 1)
        return self._result(
            node,
            'real_conv',
            self.network.stored(value),
            'float',
            groups=1,
            weights=pack_real(weight[:, :, None, None], 1),
            kernel=one,
            stride=one,
            padding=(0, 0),
            dilation=one,
        )

    def binary_convolution(self, node: ov.Node) -> Value:
        """Translate a convolution of bits."""
        source = self._bits.get(key_of(node.input_value(0)))
        constant = node.input_value(1).get_node()
        if source is None or constant.get_type_name() != 'Constant':
            raise NotCovered(f'{_named(node)} has no bits to read')
        weight = source.weights(bits_of(constant))
        if weight is None:
            raise NotCovered(f'{_named(node)} has padded channels that count')
        window, pad_value = self._window(node, weight.shape[2:]), source.pad_value
        if pad_value is None:
            pad_value = int(node.get_attributes()['pad_value'])
        elif any(window['padding']):
            raise NotCovered(f'{_named(node)} pads a padded map')
        else:
            window['padding'] = source.begin
        number = 'int16' if weight[0].size <= LARGEST_SUM['int16'] else 'float'
        return self._result(
            node,
            'binary_conv',
            source.map,
            number,
            pad_value=pad_value,
            weights=pack_binary(weight),
            **window,
        )

    def pool(self, node: ov.Node) -> Value:
        """Translate the mean or maximum of windows."""
        attributes, maximum = node.get_attributes(), node.get_type_name() == 'MaxPool'
        if any(d != 1 for d in attributes.get('dilations', ())):
            raise NotCovered(f'{_named(node)} is dilated')
        if rank_of(node.output(0)) != 4:
            raise NotCovered(f'{_named(node)} is not of two dimensions')
        window = self._window(node, attributes['kernel'])
        window.pop('dilation', None)
        counts = not maximum and not attributes['exclude-pad'] and any(window['padding'])
        if counts and any(attributes['pads_end']) and 'ceil' in attributes['rounding_type']:
            raise NotCovered(f'{_named(node)} counts padded pixels beyond the map')
        value = self.value(node.input_value(0))
        if not maximum and _is_tiling(window, shape_of(node.input_value(0))):
            axes, size = split_shape(shape_of(node.output(0)), node)
            to = MapValue('float', *size, math.prod(axes))
            self.network.want('pool', value, to)
            return Value(self.network.reading(to, axes), *size)
        return self._result(
            node,
            'pool',
            self.network.stored(value),
            'float',
            maximum=maximum,
            count_padding=counts,
            **window,
        )

    def negative(self, node: ov.Node) -> Value:
        """Multiply a value by -1."""
        value = self.value(node.input_value(0))
        axes, _ = split_shape(shape_of(node.output(0)), node)
        expressions = self.network.expressions
        minus = expressions.constant(np.full(axes, -1.0))
        return replace(value, expression=expressions.apply('mul', value.expression, minus))

    def clamp(self, node: ov.Node) -> Value:
        """Translate a clamp."""
        attributes = node.get_attributes()
        return self.bounded(node, float(attributes['min']), float(attributes['max']))


_Rule = Callable[[Rules, ov.Node], 'Value | None']

_RULES: dict[str, _Rule] = {
    'Parameter': Rules.parameter,
    'Add': lambda rules, node: rules.elementwise('add', node),
    'Subtract': lambda rules, node: rules.elementwise('sub', node),
    'Multiply': lambda rules, node: rules.elementwise('mul', node),
    'Maximum': lambda rules, node: rules.elementwise('max', node),
    'Minimum': lambda rules, node: rules.elementwise('min', node),
    'Negative': Rules.negative,
    'PRelu': Rules.prelu,
    'Relu': lambda rules, node: rules.bounded(node, 0.0, None),
    'Clamp': Rules.clamp,
    'Sigmoid': Rules.sigmoid,
    'Reshape': Rules.reshaped,
    'Squeeze': Rules.reshaped,
    'Unsqueeze': Rules.reshaped,
    'Tile': Rules.tile,
    'Slice': Rules.slice,
    'Pad': Rules.pad,
    'Split': Rules.split,
    'VariadicSplit': Rules.split,
    'Concat': Rules.concat,
    'ReduceMean': Rules.mean,
    'FakeQuantize': Rules.compared,
    'BinaryConvolution': Rules.binary_convolution,
    'Convolution': Rules.convolution,
    'GroupConvolution': Rules.convolution,
    'MatMul': Rules.matmul,
    'AvgPool': Rules.pool,
    'MaxPool': Rules.pool,
}
