"""Graph pass: replace ``bits(sign(x + b) > 0)`` by ``bits(x > -b)``.

A traced network computes a map of signs in full precision, and then compares it. The pass
compares the input of the sign. With ``s(x) = 1 if x > 0 else -1``, and ``move`` any chain of
operators that only move entries::

    bits(move(s(x)) > 0)      ->  bits(move(x) > 0)
    bits(move(s(x + b)) > 0)  ->  bits(move(x) > move(-b))

This is exact: rounding ``x + b`` keeps its sign. For the sign with ``sign(0) = 0``, a
convolution ``c`` by binary weights becomes two::

    c(move(sign(x)))          ->  (c(bits(move(x) > 0)) - c(bits(move(-x) > 0))) / 2
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ..runtime.manifest import ExportError
from .names import layer_of_comparison
from .nodes import const_value, constant, copy_of, key_of, rank_of, sizes_of
from .ops import binarize

#: Operators that only move entries. A comparison gives the same result before and after them.
_MOVING = frozenset(
    (
        'Broadcast',
        'Concat',
        'Pad',
        'Reshape',
        'Split',
        'Squeeze',
        'Tile',
        'Transpose',
        'Unsqueeze',
        'VariadicSplit',
    )
)

#: Operators that may pass on the zeros among signs, although the pass does not look behind them.
_KEEPING = _MOVING | {
    'DepthToSpace',
    'Gather',
    'MaxPool',
    'Maximum',
    'Minimum',
    'Multiply',
    'Negative',
    'Roll',
    'ShuffleChannels',
    'Slice',
    'SpaceToDepth',
    'StridedSlice',
}


class _Sign(NamedTuple):
    """Sign whose moved entries make up a map.

    Attributes:
        x: Argument of the sign.
        zero: The sign of 0.
        path: Outputs on the way from the sign to the map.
    """

    x: ov.Output
    zero: int
    path: list[ov.Output]


def _is_filled_with(output: ov.Output, number: float) -> bool:
    """Return whether ``output`` is a constant whose entries are all ``number``."""
    value = const_value(output)
    return value is not None and value.size > 0 and bool((value == number).all())


def _argument(output: ov.Output | None, kind: str, number: float | None = None) -> ov.Output | None:
    """Return ``x`` if ``output`` is the operator ``kind`` of ``x`` (and ``number``)."""
    node = output.get_node() if output is not None else None
    if node is None or node.get_type_name() != kind:
        return None
    if number is not None and not _is_filled_with(node.input_value(1), number):
        return None
    return node.input_value(0)


def _two_valued(output: ov.Output) -> ov.Output | None:
    """Return ``x`` if ``output`` is ``ceil(min(where(x <= 0, -1, x), 1))``."""
    chosen = _argument(_argument(output, 'Ceiling'), 'Minimum', 1)
    condition = _argument(chosen, 'Select')
    if chosen is None or condition is None:
        return None
    value, x = chosen.get_node().input_values()[1:]
    compared = _argument(condition, 'LessEqual', 0)
    return x if compared == x and _is_filled_with(value, -1) else None


def _three_valued(output: ov.Output) -> ov.Output | None:
    """Return ``x`` if ``output`` is ``ceil(c) + floor(c)``, ``c = clamp(x, -0.5, 0.5)``."""
    clamped = _argument(_argument(output, 'Add'), 'Ceiling')
    x = _argument(clamped, 'Clamp')
    if clamped is None or x is None:
        return None
    if _argument(output.get_node().input_value(1), 'Floor') != clamped:
        return None
    limits = clamped.get_node().get_attributes()
    return x if limits == {'min': -0.5, 'max': 0.5} else None


def match_sign(output: ov.Output) -> tuple[ov.Output, int] | None:
    """Return ``x`` and the sign of 0 if ``output`` is ``mmesbnn.binary.sign`` of ``x``."""
    for zero, match in ((-1, _two_valued), (0, _three_valued)):
        x = match(output)
        if x is not None:
            return x, zero
    return None


def _pads_harmlessly(node: ov.Node) -> bool:
    """Return whether a padded value has the same sign before and after any shift.

    This holds for values outside of all thresholds, and for channels, which get a shift of 0.
    """
    begin, end, value = (const_value(node.input_value(i)) for i in (1, 2, 3))
    if begin is None or end is None or value is None:
        return False
    elsewhere = np.delete(begin, 1).any() or np.delete(end, 1).any()
    return bool(abs(value) == np.finfo(np.float32).max) or not elsewhere


def _only_moves(node: ov.Node) -> bool:
    """Return whether ``node`` only moves entries of its first input.

    A concatenation does so if all its parts are the same map.
    """
    kind = node.get_type_name()
    if kind == 'Concat':
        parts = node.input_values()
        return all(part == parts[0] for part in parts)
    return kind in _MOVING and (kind != 'Pad' or _pads_harmlessly(node))


def _sign_behind(output: ov.Output) -> _Sign | None:
    """Return the sign whose moved entries make up ``output``, or None."""
    path: list[ov.Output] = []
    while (sign := match_sign(output)) is None:
        node = output.get_node()
        if not _only_moves(node):
            return None
        path.append(output)
        output = node.input_value(0)
    x, zero = sign
    return _Sign(x, zero, path[::-1])


def _moved(x: ov.Output, path: list[ov.Output]) -> ov.Output:
    """Move the entries of ``x`` as ``path`` does."""
    for output in path:
        node = output.get_node()
        if node.get_type_name() == 'Concat':
            inputs = [x] * node.get_input_size()
        else:
            inputs = [x, *node.input_values()[1:]]
        x = copy_of(node, inputs)[output.get_index()]
    return x


def _per_channel(value: np.ndarray, rank: int, axis: int) -> np.ndarray | None:
    """Return ``value`` as one number per channel, or None if it varies along another axis."""
    shape = (1,) * (rank - value.ndim) + value.shape
    if any(size != 1 for i, size in enumerate(shape) if i != axis):
        return None
    return value.reshape(-1)


def _shifts_moved(shift: np.ndarray, path: list[ov.Output], rank: int) -> np.ndarray | None:
    """Return the shifts of the channels (axis 1) at the end of ``path``.

    Args:
        shift: Constant that is added at the beginning of the path.
        path: Outputs of operators that only move entries.
        rank: Number of axes at its beginning.

    Returns:
        One shift per channel, or one for all; None if they are unknown.
    """
    # a path with a transpose begins at tokens (..., C)
    transposes = any(o.get_node().get_type_name() == 'Transpose' for o in path)
    axis: int | None = rank - 1 if transposes else 1
    shifts = _per_channel(shift, rank, rank - 1 if transposes else 1)
    for output in path:
        if shifts is None or axis is None:
            return None
        rule = _SHIFT_RULES.get(output.get_node().get_type_name())
        if rule is not None:
            shifts = rule(shifts, output, axis)
        axis = _axis_after(output, axis)
    return shifts if axis == 1 else None


def _axis_after(output: ov.Output, axis: int) -> int | None:
    """Return the axis of ``output`` that an axis of the input became, None if not a single one.

    Args:
        output: Of an operator that only moves entries.
        axis: An axis of the operator's first input.
    """
    node = output.get_node()
    kind = node.get_type_name()
    if kind == 'Transpose':
        order = const_value(node.input_value(1))
        return None if order is None else [int(i) for i in order].index(axis)
    if kind not in ('Reshape', 'Squeeze', 'Unsqueeze'):
        return axis
    before, after = sizes_of(node.input_value(0)), sizes_of(output)
    if before is None or after is None or before[axis] is None:
        return None
    for i, size in enumerate(after):
        is_behind = _same_count(before[axis + 1 :], after[i + 1 :])
        if size == before[axis] and (is_behind or _same_count(before[:axis], after[:i])):
            return i
    return None


def _count(sizes: list[int | None]) -> int | None:
    """Return the number of entries in axes of these sizes, None if a size is unknown."""
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None


def _same_count(first: list[int | None], second: list[int | None]) -> bool:
    return _count(first) is not None and _count(first) == _count(second)


def _for_all(shifts: np.ndarray, node: ov.Node) -> np.ndarray:
    """Repeat a single shift for all channels of the node's input."""
    if shifts.size > 1:
        return shifts
    return np.full(node.get_input_partial_shape(0)[1].get_length(), shifts[0])


def _shifts_joined(shifts: np.ndarray, output: ov.Output, axis: int) -> np.ndarray | None:
    """Repeat the shifts like ``concat([x, x, ..])`` repeats the channels."""
    node = output.get_node()
    return np.tile(_for_all(shifts, node), node.get_input_size())


def _shifts_padded(shifts: np.ndarray, output: ov.Output, axis: int) -> np.ndarray | None:
    """Add shifts of 0 for the channels that ``pad(x)`` adds."""
    node = output.get_node()
    before, after = (const_value(node.input_value(i)) for i in (1, 2))
    if before is None or after is None:
        return None
    return np.pad(_for_all(shifts, node), (int(before[1]), int(after[1])))


def _shifts_repeated(shifts: np.ndarray, output: ov.Output, axis: int) -> np.ndarray | None:
    """Repeat the shifts like ``tile(x)`` or a broadcast repeats the channels."""
    if rank_of(output) != rank_of(output.get_node().input_value(0)):
        return None
    before, after = sizes_of(output.get_node().input_value(0)), sizes_of(output)
    count, repeated = (None if sizes is None else sizes[axis] for sizes in (before, after))
    if shifts.size == 1 or count == repeated:
        return shifts
    return None if count is None or repeated is None else np.tile(shifts, repeated // count)


def _shifts_of_part(shifts: np.ndarray, output: ov.Output, axis: int) -> np.ndarray | None:
    """Split the shifts like ``split(x)`` splits the channels."""
    node, index = output.get_node(), output.get_index()
    along, rank = const_value(node.input_value(1)), rank_of(node.input_value(0))
    if along is None or rank is None or int(along) % rank != axis:
        return None
    if shifts.size == 1:
        return shifts
    if node.get_type_name() == 'Split':
        return np.split(shifts, node.get_output_size())[index]
    lengths = const_value(node.input_value(2))
    if lengths is None or (lengths < 0).any():
        return None
    return np.split(shifts, np.cumsum(lengths)[:-1])[index]


#: Effect of an operator of a path on the shifts, given its output and the axis of channels in
#: its input. All other operators do not change the shifts.
_SHIFT_RULES: dict[str, Callable[[np.ndarray, ov.Output, int], np.ndarray | None]] = {
    'Broadcast': _shifts_repeated,
    'Concat': _shifts_joined,
    'Pad': _shifts_padded,
    'Split': _shifts_of_part,
    'Tile': _shifts_repeated,
    'VariadicSplit': _shifts_of_part,
}


def _threshold(x: ov.Output, path: list[ov.Output]) -> tuple[ov.Output, np.ndarray | float]:
    """Return ``u`` and ``-b`` per channel if ``x`` is ``u + b``, else ``x`` and 0."""
    node, rank = x.get_node(), rank_of(x)
    if node.get_type_name() != 'Add' or rank is None:
        return x, 0.0
    for i in (0, 1):
        shift, rest = const_value(node.input_value(i)), node.input_value(1 - i)
        # a shift for each channel can make several channels of one
        if shift is None or sizes_of(rest) != sizes_of(x):
            continue
        shifts = _shifts_moved(shift, path, rank)
        if shifts is not None:
            return rest, -shifts
    return x, 0.0


def _convolve_twice(comparison: ov.Node, negated: ov.Node) -> None:
    """Change the convolutions of a comparison to convolutions of signs with ``sign(0) = 0``.

    ``sign(x) = (s(x) - s(-x)) / 2`` with the two-valued ``s``. Its convolution is therefore
    half the difference of two binary convolutions.

    Args:
        comparison: The bits of ``s(x)``.
        negated: The bits of ``s(-x)``.
    """
    for target in list(comparison.output(0).get_target_inputs()):
        conv = target.get_node()
        readers = list(conv.output(0).get_target_inputs())
        # the padded value also changes its sign
        pad_value = -conv.get_attributes()['pad_value']
        other = copy_of(conv, [negated, conv.input_value(1)], pad_value=pad_value)[0]
        half = ops.multiply(ops.subtract(conv, other), constant(0.5))
        for reader in readers:
            reader.replace_source_output(half.output(0))


def _compare_argument(comparison: ov.Node, sign: _Sign) -> None:
    """Let ``comparison`` read the argument of ``sign`` instead of the sign."""
    channels = comparison.input_value(1).get_shape()[1]
    if sign.zero == 0:
        negative = ops.negative(_moved(sign.x, sign.path)).output(0)
        _convolve_twice(comparison, binarize(negative, 0.0, channels))
    x, threshold = _threshold(sign.x, sign.path)
    direct = binarize(_moved(x, sign.path), threshold, channels)
    direct.set_friendly_name(comparison.get_friendly_name())
    comparison.output(0).replace(direct.output(0))


def _may_be_zero(output: ov.Output) -> bool:
    """Return whether ``output`` may hold zeros of signs that :func:`_sign_behind` has not found."""
    maps, seen = [output], set()
    while maps:
        part = maps.pop()
        sign = match_sign(part)
        if sign is not None and sign[1] == 0:
            return True
        node = part.get_node()
        if sign is None and key_of(part) not in seen and node.get_type_name() in _KEEPING:
            maps.extend(node.input_values())
        seen.add(key_of(part))
    return False


def compare_directly(graph: ov.Model) -> dict[str, int | None]:
    """Let every comparison before a binary convolution read the input of the sign.

    Args:
        graph: Changed in place.

    Returns:
        The sign of 0 in every layer. It is None if no sign was found; the comparison then
        reads the input of the layer.

    Raises:
        ExportError: If no sign was found, but one whose sign of 0 is 0 stands further away.
    """
    zeros: dict[str, int | None] = {}
    for node in graph.get_ordered_ops():
        layer = layer_of_comparison(node.get_friendly_name())
        if layer is None:
            continue
        sign = _sign_behind(node.input_value(0))
        zeros[layer] = None if sign is None else sign.zero
        if sign is None and _may_be_zero(node.input_value(0)):
            raise ExportError(
                f'{layer}: its inputs are signs that can be 0, changed by operators behind which '
                'the export does not find them'
            )
        if sign is not None:
            _compare_argument(node, sign)
    graph.validate_nodes_and_infer_types()
    return zeros
