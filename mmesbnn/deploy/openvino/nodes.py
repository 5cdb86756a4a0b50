"""Helpers that read and build nodes of OpenVINO's graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.utils.node_factory import NodeFactory

#: Orders of axes for :func:`transposed`.
CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def constant(value: Any, dtype: Any = np.float32) -> ov.Node:
    """Make a constant with a copy of ``value``."""
    return ops.constant(np.asarray(value, dtype))


def const_value(output: ov.Output) -> np.ndarray | None:
    """Return the value of a constant, or None if ``output`` is not one."""
    node = output.get_node()
    return node.get_data() if node.get_type_name() == 'Constant' else None


def copy_of(node: ov.Node, inputs: Iterable[Any], **attributes: Any) -> list[ov.Output]:
    """Apply the operator of ``node`` to other inputs.

    Args:
        node: The node to copy; it stays in the graph.
        inputs: Inputs of the copy.
        **attributes: Attributes of the copy that differ from the node's.

    Returns:
        The outputs of the copy.
    """
    kind = node.get_type_info()
    copy = NodeFactory(kind.version_id).create(
        kind.name, list(inputs), {**node.get_attributes(), **attributes}
    )
    copy.set_friendly_name(node.get_friendly_name())
    return copy.outputs()


def reshaped(x: ov.Output, *shape: int) -> ov.Output:
    """Reshape ``x``; a size of 0 keeps the axis."""
    return ops.reshape(x, constant(shape, np.int64), True).output(0)


def transposed(x: ov.Output, order: Sequence[int]) -> ov.Output:
    """Permute the axes of ``x``."""
    return ops.transpose(x, constant(order, np.int64)).output(0)


def key_of(output: ov.Output) -> tuple[str, int]:
    """Return a key of ``output`` in its graph, because outputs are not hashable."""
    return output.get_node().get_name(), output.get_index()


def rank_of(output: ov.Output) -> int | None:
    """Return the number of axes, or None if it is unknown."""
    rank = output.get_partial_shape().rank
    return None if rank.is_dynamic else rank.get_length()


def sizes_of(output: ov.Output) -> list[int | None] | None:
    """Return the size of every axis (None: unknown), or None if the rank is unknown."""
    if rank_of(output) is None:
        return None
    shape = output.get_partial_shape()
    return [None if size.is_dynamic else size.get_length() for size in shape]


def axes_in(output: ov.Output, rank: int) -> list[int] | None:
    """Return the axes in a constant, counted from 0, or None if ``output`` is not a constant.

    Args:
        output: Numbers of axes; negative numbers count from the end.
        rank: Number of axes of their array.
    """
    axes = const_value(output)
    return None if axes is None else [int(axis) % rank for axis in axes.flat]


def is_mean_of_pixels(node: ov.Node) -> bool:
    """Return whether ``node`` averages a map ``(N, C, H, W)`` over ``H`` and ``W``."""
    if node.get_type_name() != 'ReduceMean' or rank_of(node.input_value(0)) != 4:
        return False
    axes = axes_in(node.input_value(1), rank=4)
    return axes is not None and set(axes) == {2, 3}
