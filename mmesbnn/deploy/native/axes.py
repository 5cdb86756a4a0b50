"""Axes of channels and of pixels of a graph's arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov

Pair = tuple[int, int]


class NotCovered(Exception):
    """A graph that the native library cannot run; the message says why."""


def shape_of(output: ov.Output) -> tuple[int, ...]:
    """Return the shape of an output, which must be known."""
    shape = output.get_partial_shape()
    if shape.is_dynamic:
        raise NotCovered(f'{output.get_node().get_friendly_name()} has no fixed shape')
    return tuple(size.get_length() for size in shape)


def split_shape(shape: Sequence[int], node: ov.Node) -> tuple[tuple[int, ...], Pair]:
    """Return the axes of channels of a shape ``(1, C.., H, W)`` or ``(1, C)``, and (H, W)."""
    if len(shape) < 2 or shape[0] != 1 or 0 in shape:
        raise NotCovered(f'{named(node)} has the shape {list(shape)}')
    if len(shape) < 4:
        return tuple(shape[1:]), (1, 1)
    return tuple(shape[1:-2]), (shape[-2], shape[-1])


def named(node: ov.Node) -> str:
    """Return type and name of a node, for messages."""
    return f'{node.get_type_name()} {node.get_friendly_name()}'


def per_channel(constant: np.ndarray, rank: int) -> np.ndarray:
    """Return a constant that is equal for all pixels, with its axes of channels only.

    Args:
        constant: The constant, whose axes are the last of ``rank`` axes.
        rank: Number of axes of the map that it is used with.
    """
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if rank >= 4 and shape[-2:] != (1, 1):
        raise NotCovered(f'a constant of the shape {shape} differs from pixel to pixel')
    if shape[0] != 1:
        raise NotCovered(f'a constant of the shape {shape}')
    return constant.reshape(shape[1:-2] if rank >= 4 else shape[1:])
