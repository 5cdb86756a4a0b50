"""Graph pass: replace the mean of a sum by the sum of means.

Means are over the pixels of a map; ``a`` and ``b`` are equal for all pixels::

    mean(x + y)      ->  mean(x) + mean(y)
    mean(x - y)      ->  mean(x) - mean(y)
    mean(a * x)      ->  a * mean(x)
    mean(b)          ->  b
    mean([x, y])     ->  [mean(x), mean(y)]    if the channels are concatenated
    mean(pool(x))    ->  mean(x)    if adjacent windows of an average pooling fill the map

A squeeze-excite gate reads such a mean. In BNext it is the mean of ``a x + (1 - a) y`` with
one ``a`` per channel. If nothing else reads this map, it is not computed. And ``x`` is often
the sum ``r + g y + b`` of the layer before, whose gate has computed the means of ``r`` and
``y``. Then no map is read for the mean of ``x``.
"""

from __future__ import annotations

import openvino as ov
from openvino import opset13 as ops

from .nodes import copy_of, is_mean_of_pixels, key_of, rank_of, sizes_of


def _is_pixel(output: ov.Output) -> bool:
    """Return whether ``output`` is equal for all pixels of a map."""
    sizes = sizes_of(output)
    return sizes is not None and all(size == 1 for size in sizes[-2:])


def _is_read_once(output: ov.Output) -> bool:
    return len(output.get_target_inputs()) == 1


def _is_linear(node: ov.Node) -> bool:
    """Return whether the mean of ``node`` follows from the means of its inputs."""
    kind, inputs = node.get_type_name(), node.input_values()
    if not all(_is_pixel(x) or rank_of(x) == 4 for x in inputs):
        return False
    if kind == 'Multiply':
        return any(map(_is_pixel, inputs))
    return kind in ('Add', 'Subtract') or _joins_channels(node)


def _joins_channels(node: ov.Node) -> bool:
    return node.get_type_name() == 'Concat' and node.get_attributes()['axis'] in (1, -3)


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


def _parts(node: ov.Node) -> list[ov.Output]:
    """Return the maps whose means give the mean of ``node``; none if it must be computed."""
    if _averages_all_alike(node):
        return node.input_values()[:1]
    return node.input_values() if _is_linear(node) else []


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

    def follow_for(self, x: ov.Output) -> bool:
        """Return whether the mean of ``x`` follows from means that are known."""
        maps, seen = [x], set()
        while maps:
            part = maps.pop()
            if _is_pixel(part) or key_of(part) in self.known or key_of(part) in seen:
                continue
            parts = _parts(part.get_node())
            if not parts:
                return False
            seen.add(key_of(part))
            maps.extend(parts)
        return True

    def _compute(self, x: ov.Output) -> ov.Output:
        node = x.get_node()
        parts = _parts(node)
        if parts and (_is_read_once(x) or self.follow_for(x)):
            means = [self.of(part) for part in parts]
            return means[0] if node.get_type_name() == 'AvgPool' else copy_of(node, means)[0]
        return ops.reduce_mean(x, self.axes, True).output(0)


def push_means(graph: ov.Model) -> None:
    """Compute means over pixels from the means of the maps' parts.

    A map disappears if nothing except the mean reads it. A map that is also read elsewhere
    stays; its mean follows from known means or is computed from the map.

    Args:
        graph: Changed in place.
    """
    means: _Means | None = None
    for node in graph.get_ordered_ops():
        if not is_mean_of_pixels(node) or not node.get_attributes()['keep_dims']:
            continue
        means = means or _Means(node.input_value(1))
        node.output(0).replace(means.of(node.input_value(0)))
    graph.validate_nodes_and_infer_types()
