"""Graph pass: the mean of a sum is the sum of means.

A squeeze-excite gate looks at the mean over all pixels, in BNext of
``a x + (1 - a) y`` with one ``a`` per channel. Nobody else reads that map, so it is not
computed: ``a mean(x) + (1 - a) mean(y)``.
"""

from __future__ import annotations

import openvino as ov
from openvino import opset13 as ops

from .ops import copy_of
from .signs import const_value


def _is_pixel(output: ov.Output) -> bool:
    """Whether ``output`` is the same for all pixels of a map."""
    shape = output.get_partial_shape()
    if shape.rank.is_dynamic:
        return False
    return all(dim.is_static and dim.get_length() == 1 for dim in list(shape)[-2:])


def _single(output: ov.Output) -> bool:
    return len(output.get_target_inputs()) == 1


class _Means:
    """Means over the pixels of maps, each computed once."""

    def __init__(self, axes: ov.Output) -> None:
        self.axes = axes
        self.known: dict[tuple[str, int], ov.Output] = {}

    def of(self, x: ov.Output) -> ov.Output:
        """The mean of ``x``, ``(N, C, 1, 1)``."""
        if _is_pixel(x):
            return x
        key = x.get_node().get_name(), x.get_index()
        if key not in self.known:
            self.known[key] = self._compute(x)
        return self.known[key]

    def _compute(self, x: ov.Output) -> ov.Output:
        node = x.get_node()
        kind, single = node.get_type_name(), _single(x)
        if single and kind in ('Add', 'Subtract'):
            return copy_of(node, map(self.of, node.input_values()))[0]
        if single and kind == 'Multiply' and any(map(_is_pixel, node.input_values())):
            return copy_of(node, map(self.of, node.input_values()))[0]
        return ops.reduce_mean(x, self.axes, True).output(0)


def push_means(graph: ov.Model) -> None:
    """Take means over pixels before maps are scaled and added for their sake alone.

    Args:
        graph: Changed in place.
    """
    means: _Means | None = None
    for node in graph.get_ordered_ops():
        if node.get_type_name() != 'ReduceMean':
            continue
        rank = node.get_input_partial_shape(0).rank
        axes = const_value(node.input_value(1))
        if rank.is_dynamic or rank.get_length() != 4 or axes is None:
            continue
        if {int(axis) % 4 for axis in axes.flat} != {2, 3}:
            continue
        if not node.get_attributes()['keep_dims']:
            continue
        means = means or _Means(node.input_value(1))
        x = node.input_value(0)
        if _single(x):
            node.output(0).replace(means.of(x))
    graph.validate_nodes_and_infer_types()
