"""Graph pass: channels last, so that binary convolutions need no copies around them.

OpenVINO's binary convolution reads and writes its maps channel by channel within a
pixel. Left to itself, the CPU plugin keeps the element-wise operators between them
plane by plane, since tiling makes five axes of four, and copies every map forth and
back. Here maps ``(N, C, H, W)`` become ``(N, H W, C)``, with transpositions at
convolutions that the plugin sees to be void. Copies of tiled channels stay apart,
``(N, H W, copies, C)``, until another map comes in, so that a small map is broadcast by
the very kernel that applies every copy's affine and activation.

Average pooling, which the plugin runs plane by plane, becomes a depthwise convolution.
Nothing but the order in memory changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from .ops import CHANNELS_FIRST, CHANNELS_LAST, constant, copy_of
from .signs import const_value

#: Operators that work entry by entry, whatever the order of axes.
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

#: Operators that regroup channels if batch, height and width stay.
REGROUPING = frozenset(('Reshape', 'Unsqueeze', 'Squeeze'))

#: Operators that stay as they are, and have their output channels last anyway.
STAYING = frozenset(('BinaryConvolution', 'Convolution', 'GroupConvolution', 'MaxPool', 'AvgPool'))


class Form:
    """A map ``(N, H W, *groups)``.

    Reshaping is free, but the plugin copies a map that is reshaped twice. So other
    shapes are made once, in a chain.

    Args:
        tensor: The map.
        groups: How its channels are grouped; ``(C,)`` if they are not.
        size: Height and width.
        image: The map as ``(N, H, W, C)``, if there is one. Default None.
    """

    def __init__(
        self,
        tensor: ov.Output,
        groups: tuple[int, ...],
        size: tuple[int, int],
        image: ov.Output | None = None,
    ) -> None:
        self.tensor, self.groups, self.size = tensor, groups, size
        self.channels = math.prod(groups)
        self._flat = tensor if len(groups) == 1 else None
        self._image = image

    def flat(self) -> ov.Output:
        """The map as ``(N, H W, C)``."""
        if self._flat is None:
            self._flat = _reshaped(self.tensor, 0, 0, self.channels)
        return self._flat

    def image(self) -> ov.Output:
        """The map as ``(N, H, W, C)``."""
        if self._image is None:
            self._image = _reshaped(self.flat(), 0, *self.size, self.channels)
        return self._image

    def planes(self) -> ov.Output:
        """The map as ``(N, C, H, W)``."""
        return _transposed(self.image(), CHANNELS_FIRST)

    def grouped(self, groups: tuple[int, ...]) -> ov.Output:
        """The map as ``(N, H W, *groups)``."""
        if groups == self.groups:
            return self.tensor
        if len(groups) == 1:
            return self.flat()
        return _reshaped(self.flat(), 0, 0, *groups)


def _reshaped(x: ov.Output, *shape: int) -> ov.Output:
    """``x`` in another shape; 0 keeps an axis."""
    return ops.reshape(x, constant(shape, np.int64), True).output(0)


def entered(planes: ov.Output) -> Form:
    """The form of a map ``(N, C, H, W)`` that is made plane by plane."""
    channels, height, width = _dims(planes)[1:]
    image = _transposed(planes, CHANNELS_LAST)
    tensor = _reshaped(image, 0, height * width, channels)
    return Form(tensor, (channels,), (height, width), image)


def _dims(output: ov.Output) -> list[int | None] | None:
    """Sizes of ``output``, None where unknown; None if even their number is."""
    shape = output.get_partial_shape()
    if shape.rank.is_dynamic:
        return None
    return [None if dim.is_dynamic else dim.get_length() for dim in shape]


def _channels(output: ov.Output) -> tuple[int, ...] | None:
    """The channel axes of a map ``(N, C.., H, W)`` of more than one pixel, or None."""
    dims = _dims(output)
    if dims is None or len(dims) < 4 or None in dims[1:] or dims[-2:] == [1, 1]:
        return None
    return tuple(dims[1:-2])


def _transposed(x: ov.Output, order: Sequence[int]) -> ov.Output:
    return ops.transpose(x, constant(order, np.int64)).output(0)


class _ChannelsLast:
    """The pass; ``forms`` holds what the graph's outputs are in the new order."""

    def __init__(self) -> None:
        self.forms: dict[tuple[str, int], Form] = {}
        self.planes: dict[tuple[str, int], ov.Output] = {}

    @staticmethod
    def _key(output: ov.Output) -> tuple[str, int]:
        return output.get_node().get_name(), output.get_index()

    def form(self, output: ov.Output) -> Form | None:
        """The channels-last form of ``output``, None if it has none."""
        return self.forms.get(self._key(output))

    def plain(self, output: ov.Output) -> ov.Output:
        """``output``, computed from its channels-last form if it has one."""
        form, key = self.form(output), self._key(output)
        if form is None:
            return output
        if key not in self.planes:
            channels = _channels(output)
            planes = form.planes()
            if len(channels) > 1:
                planes = _reshaped(planes, 0, *channels, *form.size)
            self.planes[key] = planes
        return self.planes[key]

    def visit(self, node: ov.Node) -> None:
        """Bring what ``node`` computes to the new order, if there is a rule for it."""
        kind = node.get_type_name()
        rule = getattr(self, f'_{kind.lower()}', None)
        if kind in ELEMENTWISE:
            rule = self._elementwise
        elif kind in REGROUPING:
            rule = self._regroup
        forms = rule(node) if rule is not None and self._has_maps(node) else None
        if forms is not None:
            for output, form in zip(node.outputs(), forms):
                self.forms[self._key(output)] = form
            return
        for i in range(node.get_input_size()):
            plain = self.plain(node.input_value(i))
            if plain != node.input_value(i):
                node.input(i).replace_source_output(plain)
        if kind in STAYING and _channels(node.output(0)) is not None:
            output = node.output(0)
            self.forms[self._key(output)] = entered(output)
            self.planes[self._key(output)] = output

    def _has_maps(self, node: ov.Node) -> bool:
        if node.get_type_name() != 'ReduceMean' and _channels(node.output(0)) is None:
            return False
        return any(self.form(value) is not None for value in node.input_values())

    def _operand(
        self, value: ov.Output, rank: int, groups: tuple[int, ...], pixels: int
    ) -> ov.Output | None:
        """An element-wise operand, to be combined with maps of these ``groups``."""
        form, data, dims = self.form(value), const_value(value), _dims(value)
        if dims is None or (len(dims) != rank and (data is None or len(dims) > rank)):
            return None
        dims = [1] * (rank - len(dims)) + dims
        if None in dims[1:]:
            return None
        channels = tuple(dims[1:-2])
        if math.prod(channels) == math.prod(groups):
            channels = groups
        elif len(channels) != len(groups):
            if math.prod(channels) != 1:
                return None
            channels = (1,) * len(groups)
        if form is not None:
            return form.grouped(channels)
        if math.prod(dims[-2:]) not in (1, pixels):
            return None
        if data is not None:
            order = (0, rank - 2, rank - 1, *range(1, rank - 2))
            data = np.ascontiguousarray(data.reshape(dims).transpose(order))
            shape = (dims[0], math.prod(dims[-2:]), *channels)
            return ops.constant(data.reshape(shape)).output(0)
        if dims[-2:] != [1, 1]:
            return None
        # one pixel: its entries are in the right order already
        return _reshaped(value, 0, 1, *channels)

    def _elementwise(self, node: ov.Node) -> list[Form] | None:
        groups = _channels(node.output(0))
        rank, values = len(groups) + 3, node.input_values()
        maps = [form for form in map(self.form, values) if form is not None]
        fixed = all(self.form(v) or const_value(v) is not None for v in values)
        if len(groups) == 1 and fixed and len({form.groups for form in maps}) == 1:
            groups = maps[0].groups  # nothing else comes in: copies may stay apart
        size = maps[0].size
        inputs = [self._operand(v, rank, groups, math.prod(size)) for v in values]
        if any(x is None for x in inputs):
            return None
        return [Form(copy_of(node, inputs)[0], groups, size)]

    def _prelu(self, node: ov.Node) -> list[Form] | None:
        x, slope = self.form(node.input_value(0)), const_value(node.input_value(1))
        if x is None or slope is None or slope.size not in (1, x.channels):
            return None
        # a slope of one axis would be taken to belong to axis 1
        groups = x.groups if slope.size > 1 else (1,) * len(x.groups)
        slope = ops.constant(slope.reshape(1, 1, *groups))
        return [Form(copy_of(node, [x.tensor, slope])[0], x.groups, x.size)]

    def _regroup(self, node: ov.Node) -> list[Form] | None:
        x, output = self.form(node.input_value(0)), node.output(0)
        before, after = (node.input_value(0).get_partial_shape(), output.get_partial_shape())
        channels = _channels(output)
        same = all(before[i] == after[i] for i in (0, -2, -1))
        if x is None or not same or math.prod(channels) != x.channels:
            return None
        groups = x.groups if len(channels) == 1 else channels
        return [Form(x.grouped(groups), groups, x.size)]

    def _avgpool(self, node: ov.Node) -> list[Form] | None:
        dims, settings = _dims(node.input_value(0)), node.get_attributes()
        kernel = list(settings['kernel'])
        padded = any((*settings['pads_begin'], *settings['pads_end']))
        whole = all(size % step == 0 for size, step in zip(dims[-2:], kernel))
        if len(dims) != 4 or padded or not whole or kernel != list(settings['strides']):
            return None
        weight = np.full((dims[1], 1, 1, *kernel), 1 / math.prod(kernel))
        pooled = ops.group_convolution(
            self.plain(node.input_value(0)), constant(weight), kernel, [0, 0], [0, 0], [1, 1]
        )
        pooled.set_friendly_name(node.get_friendly_name())
        return [entered(pooled.output(0))]

    def _concat(self, node: ov.Node) -> list[Form] | None:
        maps = [self.form(value) for value in node.input_values()]
        channels = _channels(node.output(0))
        axis = node.get_attributes()['axis'] % (len(channels) + 3)
        if any(form is None for form in maps) or len(channels) > 1 or axis != 1:
            return None
        joined = ops.concat([form.flat() for form in maps], 2).output(0)
        return [Form(joined, channels, maps[0].size)]

    def _of_channels(self, node: ov.Node, i: int) -> Form | None:
        """The first input's form if the constant ``i`` names the axis of channels."""
        axes, dims = const_value(node.input_value(i)), _dims(node.input_value(0))
        if axes is None or len(dims) != 4 or [int(a) % 4 for a in axes.flat] != [1]:
            return None
        return self.form(node.input_value(0))

    def _slice(self, node: ov.Node) -> list[Form] | None:
        x = self._of_channels(node, 4) if node.get_input_size() == 5 else None
        if x is None:
            return None
        inputs = [x.flat(), *node.input_values()[1:4], constant([2], np.int64)]
        return [Form(copy_of(node, inputs)[0], _channels(node.output(0)), x.size)]

    def _split(self, node: ov.Node) -> list[Form] | None:
        x = self._of_channels(node, 1)
        if x is None:
            return None
        inputs = [x.flat(), constant(2, np.int64), *node.input_values()[2:]]
        parts = zip(copy_of(node, inputs), node.outputs())
        return [Form(part, _channels(output), x.size) for part, output in parts]

    _variadicsplit = _split

    def _reducemean(self, node: ov.Node) -> None:
        """Take a mean over all pixels from the channels-last form."""
        x, axes = self.form(node.input_value(0)), const_value(node.input_value(1))
        rank = len(_dims(node.input_value(0)))
        if x is None or axes is None or rank != 4:
            return
        if {int(a) % 4 for a in axes.flat} != {2, 3}:
            return
        # two sums, since a long one would round more; of two kinds, lest they be merged
        height = x.size[0]
        rows = ops.reduce_sum(x.image(), constant([1], np.int64), False)
        mean = ops.reduce_mean(rows, constant([1], np.int64), False)
        mean = ops.multiply(mean, constant(1 / height)).output(0)
        mean.get_node().set_friendly_name(node.get_friendly_name())
        if node.get_attributes()['keep_dims']:
            node.output(0).replace(_reshaped(mean, 0, x.channels, 1, 1))
        else:
            node.output(0).replace(mean)


def channels_last(graph: ov.Model) -> None:
    """Bring the maps between binary convolutions to channels-last order.

    Args:
        graph: Changed in place; height and width of its maps should be known.
    """
    rewriting = _ChannelsLast()
    for node in graph.get_ordered_ops():
        rewriting.visit(node)
    graph.validate_nodes_and_infer_types()
