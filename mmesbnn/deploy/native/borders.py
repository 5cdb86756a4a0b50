"""Padding before a comparison, which the native convolution of bits does itself.

The export pads some maps before their signs are taken, because OpenVINO's kernel pads or
counts wrongly: pixels with a value beyond all thresholds, and channels with 0, whose weights
cancel each other. A native convolution pads pixels by itself, and needs no such channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import openvino as ov

from ..openvino.nodes import const_value
from .expressions import MapValue
from .network import Value


@dataclass(frozen=True, eq=False)
class Bordered:
    """Value with padding that is not computed.

    Attributes:
        value: The value inside.
        begin: Number of padded rows above and of columns to the left.
        outside: Value of padded pixels; None if there are none.
        extra: Number of padded channels after the last.
        filling: Value of padded channels.
    """

    value: Value
    begin: tuple[int, int] = (0, 0)
    outside: float | None = None
    extra: int = 0
    filling: float = 0.0

    def padded(self, node: ov.Node) -> Bordered | None:
        """Return the result of a ``Pad``; None if it pads in another way."""
        begin, end, value = (const_value(node.input_value(i)) for i in (1, 2, 3))
        if begin is None or end is None or value is None or self.extra:
            return None
        if node.get_attributes()['pad_mode'] != 'constant' or len(begin) != 4:
            return None
        if min(begin.min(), end.min()) < 0 or begin[0] or end[0] or begin[1]:
            return None
        pixels, number = bool(begin[2:].any() or end[2:].any()), float(value)
        if pixels and (end[1] or self.outside is not None):
            return None
        if pixels:
            return replace(self, begin=(int(begin[2]), int(begin[3])), outside=number)
        return replace(self, extra=int(end[1]), filling=number)


@dataclass(frozen=True, eq=False)
class Bits:
    """Map of bits that convolutions read.

    Attributes:
        map: The map, without padding.
        begin: Number of rows and columns to pad.
        pad_value: Sign of these pixels; None if there are none.
        extra: Number of channels that the map lacks.
    """

    map: MapValue
    begin: tuple[int, int] = (0, 0)
    pad_value: int | None = None
    extra: int = 0

    def weights(self, weight: np.ndarray) -> np.ndarray | None:
        """Return the bits of the weights without those of lacking channels.

        Args:
            weight: Booleans ``(C_o, C_i, k_h, k_w)``.

        Returns:
            The weights; None if those of lacking channels do not cancel each other.
        """
        if not self.extra:
            return weight
        kept, lacking = np.split(weight, [-self.extra], axis=1)
        return kept if (2 * lacking.sum(1) == self.extra).all() else None


def compared_border(source: Bordered, limits: np.ndarray, to: MapValue) -> Bits | None:
    """Describe the comparison of a value with padding.

    Args:
        source: The value.
        limits: Limit of each channel, those of padded channels too.
        to: Map of the bits of the value inside.

    Returns:
        The bits; None if the bits of padding differ from channel to channel.
    """
    inside, more = limits[: to.channels], limits[to.channels :]
    if more.size and len(set((source.filling > more).tolist())) > 1:
        return None
    pad_value = None
    if source.outside is not None:
        signs = set((source.outside > inside).tolist())
        if len(signs) > 1:
            return None
        pad_value = 1 if signs.pop() else -1
    return Bits(to, source.begin, pad_value, source.extra)
