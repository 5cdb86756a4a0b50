"""Rules that translate each operator of a graph."""

from __future__ import annotations

from functools import partial

import openvino as ov

from . import channel_rules, elementwise_rules, step_rules
from .axes import NotCovered, named, shape_of, split_shape
from .expressions import MapValue
from .network import Network, Value
from .translation import Rule, Translation


def _parameter(translation: Translation, node: ov.Node) -> Value:
    """Translate the input image."""
    axes, (height, width) = split_shape(shape_of(node.output(0)), node)
    if translation.network.image is not None:
        raise NotCovered('the network takes more than one image')
    if len(axes) != 1:
        raise NotCovered(f'{named(node)} is not an image of the shape (N, C, H, W)')
    image = MapValue('float', height, width, axes[0])
    translation.network.image = image
    return Value(translation.network.reading(image, axes), height, width)


_RULES: dict[str, Rule] = {
    'Parameter': _parameter,
    'Add': partial(elementwise_rules.elementwise, 'add'),
    'Subtract': partial(elementwise_rules.elementwise, 'sub'),
    'Multiply': partial(elementwise_rules.elementwise, 'mul'),
    'Maximum': partial(elementwise_rules.elementwise, 'max'),
    'Minimum': partial(elementwise_rules.elementwise, 'min'),
    'Negative': elementwise_rules.negative,
    'PRelu': elementwise_rules.prelu,
    'Relu': partial(elementwise_rules.bounded, least=0.0, most=None),
    'Clamp': elementwise_rules.clamp,
    'Sigmoid': elementwise_rules.sigmoid,
    'Reshape': channel_rules.reshaped,
    'Squeeze': channel_rules.reshaped,
    'Unsqueeze': channel_rules.reshaped,
    'Tile': channel_rules.tile,
    'Broadcast': channel_rules.broadcast,
    'Slice': channel_rules.sliced,
    'Pad': channel_rules.pad,
    'Split': channel_rules.split,
    'VariadicSplit': channel_rules.split,
    'Concat': channel_rules.concat,
    'ReduceMean': step_rules.mean,
    'FakeQuantize': step_rules.compared,
    'BinaryConvolution': step_rules.binary_convolution,
    'Convolution': step_rules.convolution,
    'GroupConvolution': step_rules.convolution,
    'MatMul': step_rules.matmul,
    'AvgPool': step_rules.pool,
    'MaxPool': step_rules.pool,
}


def translated(graph: ov.Model) -> Network:
    """Translate a whole graph.

    Args:
        graph: For one image; its binary convolutions read comparisons.

    Raises:
        NotCovered: If there is no rule for an operator.
    """
    return Translation(_RULES).follow(graph)
