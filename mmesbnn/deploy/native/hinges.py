"""Means of the copies of a binary convolution's result, without their norms and PReLUs.

A copy is ``prelu(scale * y + offset)`` of the same integers ``y``. It bends where ``y`` is
``-offset / scale``, so with constants ``line``, ``top`` and ``base`` for each channel it is::

    line * y + top * max(y, bend) + base

Its mean follows from the means of ``y``, which all copies share, and of ``max(y, bend)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..runtime.program_maps import LARGEST_SUM
from .expressions import Apply, Constant, Expression, MapValue, Read, run_of
from .network import Network, Value


@dataclass(frozen=True, eq=False)
class Hinge:
    """``line * y + top * max(y, bend) + base``.

    Attributes:
        map: The map of ``y``.
        first: Channel of the map that is read first.
        period: Number of channels that are read again for each copy.
        line, top, bend, base: Constants, float64, for all channels of all copies.
    """

    map: MapValue
    first: int
    period: int
    line: np.ndarray
    top: np.ndarray
    bend: np.ndarray
    base: np.ndarray

    @property
    def copies(self) -> int:
        """Number of copies."""
        return len(self.line) // self.period


def hinge_of(x: Expression) -> Hinge | None:
    """Return a PReLU of copies of integers as a hinge; None if ``x`` is something else.

    Args:
        x: The expression, of flat channels.
    """
    found = _parts(x)
    if found is None:
        return None
    read, *constants = found
    run = run_of(read.index)
    if run is None or len(read.index) < 2 * run[1] or len(read.index) % run[1]:
        return None
    scale, offset, slope = (constant.astype(np.float64) for constant in constants)
    most = LARGEST_SUM[read.map.kind]
    bends = np.abs(offset) < np.abs(scale) * most
    rising = scale > 0
    # without a bend, all integers lie on the side where 0 lies
    factor = np.where(offset < 0, slope, 1.0)
    line = np.where(bends, np.where(rising, slope, 1.0), factor) * scale
    top = np.where(bends, (1.0 - slope) * np.abs(scale), 0.0)
    base = np.where(bends, np.where(rising, 1.0, slope), factor) * offset
    bend = np.divide(-offset, scale, out=np.zeros_like(scale), where=bends)
    return Hinge(read.map, *run, line, top, bend, base)


def _parts(x: Expression) -> tuple[Read, np.ndarray, np.ndarray, np.ndarray] | None:
    """Return ``y``, scale, offset and slope of ``prelu(y * scale + offset, slope)``."""
    total, slope = _operands(x, 'prelu')
    product, offset = _operands(total, 'add')
    read, scale = _operands(product, 'mul')
    if not isinstance(read, Read) or read.map.kind != 'int16':
        return None
    if slope is None or offset is None or scale is None:
        return None
    return read, scale, offset, slope


def _operands(x: Expression | None, name: str) -> tuple[Expression | None, np.ndarray | None]:
    """Return the operand of an operator that is no constant, and the one that is."""
    if not isinstance(x, Apply) or x.name != name:
        return None, None
    for other, constant in (x.arguments, x.arguments[::-1]):
        if isinstance(constant, Constant):
            return other, constant.value
    return None, None


def mean_of(hinge: Hinge, size: tuple[int, int], network: Network) -> Expression:
    """Let a sweep compute the means of a hinge, and return their expression.

    Args:
        hinge: The hinge.
        size: Height and width of its map.
        network: The network.
    """
    expressions, period = network.expressions, hinge.period
    channels = hinge.first + np.arange(period)
    y = expressions.read(hinge.map, channels)
    mean, maxima = (MapValue('float', 1, 1, n) for n in (period, len(hinge.line)))
    network.want('mean', Value(y, *size), mean)
    for at in range(0, len(hinge.line), period):
        bend = expressions.constant(hinge.bend[at : at + period])
        network.want('mean', Value(expressions.apply('max', y, bend), *size), maxima, at)
    tiled = expressions.read(mean, np.tile(np.arange(period), hinge.copies))
    whole = expressions.read(maxima, np.arange(len(hinge.line)))
    line, top, base = map(expressions.constant, (hinge.line, hinge.top, hinge.base))
    below = expressions.apply('add', expressions.apply('mul', tiled, line), base)
    return expressions.apply('add', expressions.apply('mul', whole, top), below)
