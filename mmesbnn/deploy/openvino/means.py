"""Graph pass: replace the mean of a sum by the sum of means.

Means are over the pixels of a map; ``a`` and ``b`` are equal for all pixels::

    mean(x + y)      ->  mean(x) + mean(y)
    mean(x - y)      ->  mean(x) - mean(y)
    mean(a * x)      ->  a * mean(x)
    mean(b)          ->  b
    mean(pool(x))    ->  mean(x)    if adjacent windows of an average pooling fill the map

A squeeze-excite gate reads such a mean. In BNext it is the mean of ``a x + (1 - a) y`` with
one ``a`` per channel. If nothing else reads this map, it is not computed.
"""

from __future__ import annotations

import openvino as ov
from openvino import opset13 as ops

from .nodes import copy_of, is_mean_of_pixels, key_of, sizes_of


def _is_pixel(output: ov.Output) -> bool:
    """Return whether ``output`` is equal for all pixels of a map."""
    sizes = sizes_of(output)
    return sizes is not None and all(size == 1 for size in sizes[-2:])


def _is_read_once(output: ov.Output) -> bool:
    return len(output.get_target_inputs()) == 1


def _is_linear(node: ov.Node) -> bool:
    """Return whether the mean of ``node`` follows from the means of its inputs."""
    kind = node.get_type_name()
    if kind == 'Multiply':
        return any(map(_is_pixel, node.input_values()))
    return kind in ('Add', 'Subtract')


def _averages_all_alike(node: ov.Node) -> bool:
    """Return whether ``node`` averages windows that contain every pixel exactly once."""
    if node.get_type_name() != 'AvgPool':
        return False
    attributes, sizes = node.get_attributes(), sizes_of(node.input_value(0))
    kernel = list(attributes['kernel'])
    is_plain = list(attributes['strides']) == kernel and attributes['auto_pad'] == 'explicit'
    if sizes is None or not is_plain or any(attributes['pads_begin'] + attributes['pads_end']):
        return False
    return all(size is not None and size % k == 0 for size, k in zip(sizes[-2:], kernel))


class _Means:
    """Means over the pixels of maps, each computed once.

    Args:
        axes: The axes of height and width.
    """

    def __init__(self, axes: ov.Output) -> None:
        self.axes = axes
        self.known: dict[tuple[str, int], ov.Output] = {}

    def of(self, x: ov.Output) -> ov.Output:
        """Return the mean of ``x``, ``(N, C, 1, 1)``."""
        if _is_pixel(x):
            return x
        key = key_of(x)
        if key not in self.known:
            self.known[key] = self._compute(x)
        return self.known[key]

    def _compute(self, x: ov.Output) -> ov.Output:
        node = x.get_node()
        if _averages_all_alike(node):
            return self.of(node.input_value(0))
        if _is_read_once(x) and _is_linear(node):
            return copy_of(node, map(self.of, node.input_values()))[0]
        return ops.reduce_mean(x, self.axes, True).output(0)


def push_means(graph: ov.Model) -> None:
    """Compute means over pixels before the maps are scaled and added.

    This changes only maps that nothing except the mean reads.

    Args:
        graph: Changed in place.
    """
    means: _Means | None = None
    for node in graph.get_ordered_ops():
        if not is_mean_of_pixels(node) or not node.get_attributes()['keep_dims']:
            continue
        means = means or _Means(node.input_value(1))
        x = node.input_value(0)
        if _is_read_once(x):
            node.output(0).replace(means.of(x))
    graph.validate_nodes_and_infer_types()
