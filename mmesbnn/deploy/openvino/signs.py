"""Graph pass: compare where the sign was computed.

What the trace has is ``bits(sign(x + b) > 0)``, with a full-precision map of signs in
between. This is ``bits(x > -b)``, exactly: rounding ``x + b`` keeps its sign.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from .ops import BINARIZE, binarize, constant, copy_of

#: Operators that only move entries, which the comparison may change places with.
_MOVING = (
    'Concat',
    'Pad',
    'Reshape',
    'Split',
    'Squeeze',
    'Transpose',
    'Unsqueeze',
    'VariadicSplit',
)


def const_value(output: ov.Output) -> np.ndarray | None:
    """The value of a constant, None if ``output`` is none."""
    node = output.get_node()
    return node.get_data() if node.get_type_name() == 'Constant' else None


def _is(output: ov.Output, number: float) -> bool:
    value = const_value(output)
    return value is not None and value.size > 0 and bool((value == number).all())


def _operand(output: ov.Output | None, kind: str, number: float | None = None) -> ov.Output | None:
    """``x`` if ``output`` is the operator ``kind`` of ``x`` (and ``number``)."""
    node = output.get_node() if output is not None else None
    if node is None or node.get_type_name() != kind:
        return None
    if number is not None and not _is(node.input_value(1), number):
        return None
    return node.input_value(0)


def _two_valued(output: ov.Output) -> ov.Output | None:
    """``x`` if ``output`` is ``ceil(min(where(x <= 0, -1, x), 1))``."""
    chosen = _operand(_operand(output, 'Ceiling'), 'Minimum', 1)
    condition = _operand(chosen, 'Select')
    if condition is None:
        return None
    value, x = chosen.get_node().input_values()[1:]
    return x if _operand(condition, 'LessEqual', 0) == x and _is(value, -1) else None


def _three_valued(output: ov.Output) -> ov.Output | None:
    """``x`` if ``output`` is ``ceil(c) + floor(c)``, ``c = clamp(x, -0.5, 0.5)``."""
    up = _operand(output, 'Add')
    clamped = _operand(up, 'Ceiling')
    x = _operand(clamped, 'Clamp')
    if x is None or _operand(output.get_node().input_value(1), 'Floor') != clamped:
        return None
    limits = clamped.get_node().get_attributes()
    return x if limits == {'min': -0.5, 'max': 0.5} else None


def match_sign(output: ov.Output) -> tuple[ov.Output, int] | None:
    """``x`` and what sign(0) is, if ``output`` is ``mmesbnn.binary.sign`` of ``x``."""
    for zero, match in ((-1, _two_valued), (0, _three_valued)):
        x = match(output)
        if x is not None:
            return x, zero
    return None


def _same_parts(node: ov.Node) -> bool:
    """Whether what a concatenation joins is one and the same, if ``node`` is one."""
    parts = node.input_values()
    return node.get_type_name() != 'Concat' or all(p == parts[0] for p in parts)


def _behind(output: ov.Output) -> tuple[ov.Output, int, list[ov.Output]] | None:
    """The sign that ``output`` is made from by moving entries only.

    Returns:
        Its argument, what sign(0) is, and the outputs passed on the way to ``output``.
    """
    path: list[ov.Output] = []
    while True:
        found = match_sign(output)
        if found is not None:
            return (*found, path[::-1])
        node = output.get_node()
        if node.get_type_name() not in _MOVING or not _same_parts(node):
            return None
        path.append(output)
        output = node.input_value(0)


def _again(x: ov.Output, path: list[ov.Output]) -> ov.Output:
    """Move the entries of ``x`` as along ``path``."""
    for output in path:
        node = output.get_node()
        count, rest = node.get_input_size(), node.input_values()[1:]
        inputs = [x] * count if node.get_type_name() == 'Concat' else [x, *rest]
        x = copy_of(node, inputs)[output.get_index()]
    return x


def _per_channel(value: np.ndarray, rank: int, axis: int) -> np.ndarray | None:
    """``value`` as one number per channel, None if it varies along another axis."""
    shape = (1,) * (rank - value.ndim) + value.shape
    if any(size != 1 for i, size in enumerate(shape) if i != axis):
        return None
    return value.reshape(-1)


def _moved(shift: np.ndarray, path: list[ov.Output], rank: int) -> np.ndarray | None:
    """The shifts that belong to the channels (axis 1) at the end of ``path``.

    Args:
        shift: Constant that is added at the beginning of the path.
        path: As of :func:`_behind`.
        rank: Number of axes at its beginning.
    """
    axis = rank - 1 if any(o.get_node().get_type_name() == 'Transpose' for o in path) else 1
    values = _per_channel(shift, rank, axis)
    for output in path:
        if values is not None:
            values = _step(values, output, axis)
    return values


def _step(values: np.ndarray, output: ov.Output, axis: int) -> np.ndarray | None:
    """The shifts after one operator of a path."""
    node = output.get_node()
    kind = node.get_type_name()
    if 'Split' in kind:
        return _part(values, output, axis)
    if values.size == 1 and kind in ('Concat', 'Pad'):
        values = np.full(node.get_input_partial_shape(0)[1].get_length(), values[0])
    if kind == 'Concat':
        return np.tile(values, node.get_input_size())
    if kind == 'Pad':
        before, after = (const_value(node.input_value(i)) for i in (1, 2))
        return np.pad(values, (int(before[1]), int(after[1])))
    return values


def _part(values: np.ndarray, output: ov.Output, axis: int) -> np.ndarray | None:
    node, index = output.get_node(), output.get_index()
    along = const_value(node.input_value(1))
    rank = node.input_value(0).get_partial_shape().rank.get_length()
    if along is None or int(along) % rank not in (axis, 1):
        return None
    if values.size == 1:
        return values
    if node.get_type_name() == 'Split':
        return np.split(values, node.get_output_size())[index]
    lengths = const_value(node.input_value(2))
    if lengths is None or (lengths < 0).any():
        return None
    return np.split(values, np.cumsum(lengths)[:-1])[index]


def _threshold(x: ov.Output, path: list[ov.Output]) -> tuple[ov.Output, Any]:
    """``u`` and ``-b`` per channel if ``x`` is ``u + b``, else ``x`` and 0."""
    node = x.get_node()
    if node.get_type_name() != 'Add':
        return x, 0.0
    for i in (0, 1):
        shift, rest = const_value(node.input_value(i)), node.input_value(1 - i)
        rank = rest.get_partial_shape().rank
        if shift is None or rank.is_dynamic or rank != x.get_partial_shape().rank:
            continue
        values = _moved(shift, path, rank.get_length())
        if values is not None:
            return rest, -values
    return x, 0.0


def _convolve_twice(node: ov.Node, bits_below: ov.Node) -> None:
    """Make the convolutions of ``node`` those of signs that are 0 at 0.

    ``sign(x) = (s(x) - s(-x)) / 2`` with the two-valued ``s``, so two binary
    convolutions do it: ``node`` has the bits of ``s(x)``, ``bits_below`` of ``s(-x)``.
    """
    for target in list(node.output(0).get_target_inputs()):
        conv = target.get_node()
        readers = list(conv.output(0).get_target_inputs())
        padded = conv.get_attributes()['pad_value']
        inputs = [bits_below, conv.input_value(1)]
        below = copy_of(conv, inputs, pad_value=-padded)[0]
        half = ops.multiply(ops.subtract(conv, below), constant(0.5))
        for reader in readers:
            reader.replace_source_output(half.output(0))


def compare_directly(graph: ov.Model) -> dict[str, int | None]:
    """Let every comparison before a binary convolution read what the sign read.

    Args:
        graph: Changed in place.

    Returns:
        By layer, what its sign takes 0 to; None where no sign was found, so that the
        comparison reads the map that the layer was given.
    """
    zeros: dict[str, int | None] = {}
    for node in graph.get_ordered_ops():
        name = node.get_friendly_name()
        if not name.startswith(BINARIZE):
            continue
        layer = name[len(BINARIZE) + 1 :].rpartition('#')[0]
        found = _behind(node.input_value(0))
        zeros[layer] = None if found is None else found[1]
        if found is None:
            continue
        x, zero, path = found
        channels = node.input_value(1).get_shape()[1]
        if zero == 0:
            # the padded value has another sign, too
            below = ops.negative(_again(x, path)).output(0)
            _convolve_twice(node, binarize(below, 0.0, channels))
        x, threshold = _threshold(x, path)
        direct = binarize(_again(x, path), threshold, channels)
        direct.set_friendly_name(name)
        node.output(0).replace(direct.output(0))
    graph.validate_nodes_and_infer_types()
    return zeros
