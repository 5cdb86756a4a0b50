"""Graph pass: pad before an average pooling that counts padding and rounds its size up.

torch divides by the number of pixels of a window within the padded map. OpenVINO's CPU plugin
divides by all pixels of the window, also where it ends beyond the padding. With the zeros
as pixels of the map, and windows that count pixels of the map only, both do the same.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from .nodes import constant, copy_of, sizes_of


def _padding(node: ov.Node) -> tuple[list[int], list[int]] | None:
    """Return the zeros to add before and after each axis of pixels, or None if nothing is wrong."""
    attributes = node.get_attributes()
    before, after = sizes_of(node.input_value(0)), sizes_of(node.output(0))
    begin, end = list(attributes['pads_begin']), list(attributes['pads_end'])
    if attributes['exclude-pad'] or not attributes['rounding_type'].startswith('ceil'):
        return None
    if before is None or after is None or not any(begin + end):
        return None
    zeros, is_wrong = [], False
    axes = zip(before[2:], after[2:], attributes['kernel'], attributes['strides'], begin, end)
    for size, count, kernel, stride, first, last in axes:
        if size is None or count is None:
            return None
        beyond = (count - 1) * stride + kernel - first - size  # end of the last window
        is_wrong = is_wrong or beyond > last
        zeros.append(min(last, max(0, beyond)))  # more would start one more window
    return (begin, zeros) if is_wrong else None


def pad_before_averages(graph: ov.Model) -> None:
    """Replace the padding of average poolings whose last windows end beyond it.

    Args:
        graph: Changed in place; height and width of its maps should be known.
    """
    for node in graph.get_ordered_ops():
        padding = _padding(node) if node.get_type_name() == 'AvgPool' else None
        if padding is None:
            continue
        begin, end = (constant([0, 0, *zeros], np.int64) for zeros in padding)
        padded = ops.pad(node.input_value(0), begin, end, 'constant', constant(0.0))
        none = {'pads_begin': [0] * len(padding[0]), 'pads_end': [0] * len(padding[0])}
        (pooled,) = copy_of(node, [padded], **none, **{'exclude-pad': True})
        node.output(0).replace(pooled)
    graph.validate_nodes_and_infer_types()
