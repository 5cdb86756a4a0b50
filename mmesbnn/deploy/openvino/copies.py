"""Graph pass: sum the kernels that a convolution applies to equal copies of its input.

``[x, x, ..., x]`` are copies of ``x``, joined along the channels::

    conv([x, ..., x], [w_1, ..., w_k])    ->  conv(x, w_1 + ... + w_k)
    conv(relu([x, ..., x]), ...)          ->  conv(relu(x), ...)

The same holds if the convolution has groups and each group reads whole copies. Then it no
longer needs groups. The gates of ES-BNext excite copies of their squeezed channels, so this
leaves ``1 / (tau^2 groups)`` of the weights of these kernels.

The kernels are summed in float64 and rounded once.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from .nodes import const_value, constant, copy_of, sizes_of

#: Functions of single entries, which may stand between the copies and the convolution.
ENTRYWISE = frozenset(('Relu', 'Sigmoid', 'Tanh'))


def _single(x: ov.Output) -> ov.Output | None:
    """Return the map of which ``x`` has copies along the channels, or None."""
    node = x.get_node()
    if node.get_type_name() in ENTRYWISE:
        single = _single(node.input_value(0))
        return None if single is None else copy_of(node, [single])[0]
    if node.get_type_name() != 'Tile':
        return None
    repeats = const_value(node.input_value(1))
    is_along_channels = repeats is not None and [*repeats[:1], *repeats[2:]] == [1, 1, 1]
    return node.input_value(0) if is_along_channels else None


def _summed(kernels: np.ndarray, channels: int) -> np.ndarray | None:
    """Sum the kernels of all copies in float64; return None if a group reads parts of copies.

    Args:
        kernels: ``(groups, C_o / groups, C_i / groups, k_h, k_w)``.
        channels: Channels of one copy.
    """
    groups, outputs, inputs, *size = kernels.shape
    if inputs % channels:
        return None
    copies = kernels.reshape(groups * outputs, inputs // channels, channels, *size)
    return copies.sum(1, dtype=np.float64)


def _fold(node: ov.Node) -> None:
    kernels, single = const_value(node.input_value(1)), _single(node.input_value(0))
    channels = None if single is None else (sizes_of(single) or [None, None])[1]
    if kernels is None or channels is None:
        return
    is_plain = node.get_type_name() == 'Convolution'
    summed = _summed(kernels[None] if is_plain else kernels, channels)
    if summed is None:
        return
    attributes = node.get_attributes()
    given = [attributes[name] for name in ('strides', 'pads_begin', 'pads_end', 'dilations')]
    rounded = constant(summed, kernels.dtype)
    new = ops.convolution(single, rounded, *given, attributes['auto_pad'])
    new.set_friendly_name(node.get_friendly_name())
    node.output(0).replace(new.output(0))


def sum_kernels_of_copies(graph: ov.Model) -> None:
    """Replace convolutions of copies by convolutions of one copy.

    Args:
        graph: Changed in place.
    """
    for node in graph.get_ordered_ops():
        if node.get_type_name() in ('Convolution', 'GroupConvolution'):
            _fold(node)
    graph.validate_nodes_and_infer_types()
