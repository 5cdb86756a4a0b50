"""How far the outputs of a deployed graph are from torch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .runtime.manifest import ExportError

#: Outputs that differ by at most this, relative to the largest value, differ by
#: rounding.
ROUNDING = 1e-4
#: Relative error from which on an output counts as another one; rounding flips signs of
#: values near a threshold, which changes an output a little.
TOLERANCE = 0.1

#: Outputs whose last axis is classes.
_SCORES = ('logits', 'scores')


@dataclass(frozen=True)
class OutputAgreement:
    """How far one output of a graph is from torch's.

    Attributes:
        name: The output's name.
        difference: Largest absolute difference.
        median_difference: Median over the examples of their largest absolute
            difference.
        largest: Largest absolute value in torch's output.
        error: Median over the examples of the relative error,
            ``|ours - theirs| / |theirs|`` (L2).
        examples: On how many examples they were compared.
        equal: On how many the outputs differ by at most ``ROUNDING * largest``; on the
            others a value near a threshold took the other sign.
        top1: Share of rows (last axis) whose largest entry is the same one; None for
            outputs that are no scores.
    """

    name: str
    difference: float
    median_difference: float
    largest: float
    error: float
    examples: int
    equal: int
    top1: float | None

    def __str__(self) -> str:
        text = (
            f'{self.name}: differs by {self.difference:.2g} at most, '
            f'{self.median_difference:.2g} in the median, values up to '
            f'{self.largest:.3g}, relative error {self.error:.2g}; equal but for '
            f'rounding on {self.equal} of {self.examples} examples'
        )
        if self.top1 is not None:
            text += f'; top-1 agrees for {100 * self.top1:.2f} %'
        return text


def compare(name: str, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> OutputAgreement:
    """Compare an output with torch's, example by example."""
    pairs = list(zip(ours, theirs))
    largest = max(float(np.abs(y).max(initial=0)) for y in theirs)
    apart = [float(np.abs(x - y).max(initial=0)) for x, y in pairs]
    errors = [float(np.linalg.norm(x - y)) / max(float(np.linalg.norm(y)), 1e-30) for x, y in pairs]
    top1 = None
    if name in _SCORES:
        same = [(x.argmax(-1) == y.argmax(-1)).ravel() for x, y in pairs]
        top1 = float(np.concatenate(same).mean())
    return OutputAgreement(
        name,
        max(apart),
        float(np.median(apart)),
        largest,
        float(np.median(errors)),
        len(pairs),
        sum(value <= ROUNDING * largest for value in apart),
        top1,
    )


def in_order_of(theirs: Sequence[np.ndarray], ours: Sequence[np.ndarray]) -> list[np.ndarray]:
    """``ours`` with, for each row of ``theirs``, the row that is nearest to it.

    Args:
        theirs: Outputs of one example, ``(1, K, ...)`` each.
        ours: The same outputs of another graph.
    """

    def rows(outputs: Sequence[np.ndarray]) -> np.ndarray:
        flat = [x[0].reshape(x.shape[1], -1) for x in outputs]
        return np.concatenate(flat, axis=1, dtype=np.float64)

    x, y = rows(ours), rows(theirs)
    apart = (y**2).sum(1)[:, None] + (x**2).sum(1) - 2 * y @ x.T
    nearest = apart.argmin(1)
    return [output[:, nearest] for output in ours]


def compare_all(
    engine: str,
    names: Sequence[str],
    ours: Sequence[Sequence[np.ndarray]],
    theirs: Sequence[Sequence[np.ndarray]],
    unordered: bool = False,
) -> list[OutputAgreement]:
    """Compare all outputs with torch's.

    Args:
        engine: What ran the graph.
        names: Names of the outputs.
        ours: For every example, the graph's outputs.
        theirs: For every example, torch's outputs.
        unordered: Whether rows are regions sorted by their scores. A sign that flips
            near a threshold then changes their order, so every one of torch's is
            compared with the nearest. Default False.

    Raises:
        ExportError: If the median relative error of an output exceeds ``TOLERANCE``.
    """
    if unordered:
        ours = [in_order_of(y, x) for x, y in zip(ours, theirs)]
    agreements = [compare(name, x, y) for name, x, y in zip(names, zip(*ours), zip(*theirs))]
    bad = [str(one) for one in agreements if not one.error <= TOLERANCE]
    if bad:
        raise ExportError(f'{engine} disagrees with torch: {"; ".join(bad)}; nothing was written')
    return agreements
