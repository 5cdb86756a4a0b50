"""Comparison of the outputs of a deployed graph with torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..binary.modes import inference
from .runtime.manifest import ExportError

#: Largest difference, relative to the largest value, that counts as rounding.
ROUNDING = 1e-4
#: Largest relative error of an output that counts as the same output. Rounding can flip
#: signs of values near a threshold, which changes an output slightly.
TOLERANCE = 0.1

#: Names of outputs whose last axis is the classes.
_SCORES = ('logits', 'scores')


@dataclass(frozen=True)
class OutputAgreement:
    """Differences between one output of a graph and torch's.

    Attributes:
        name: Name of the output.
        difference: Largest absolute difference.
        median_difference: Median over the examples of their largest absolute
            difference.
        largest: Largest absolute value in torch's output.
        error: Median over the examples of the relative error,
            ``|ours - theirs| / |theirs|`` (L2).
        examples: Number of examples.
        equal: Number of examples in which the outputs differ by at most
            ``ROUNDING * largest``. In the others the sign of a value near a threshold
            flipped.
        top1: Share of rows (last axis) with the same position of the largest entry; None
            for outputs that are not scores.
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
            f'{self.largest:.3g}, relative error {self.error:.2g}; equal except for '
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
    """Return ``ours`` with the row that is nearest to each row of ``theirs``.

    Args:
        theirs: Outputs of one example, ``(1, K, ...)`` each.
        ours: Outputs of another graph for the same example.
    """

    def rows(outputs: Sequence[np.ndarray]) -> np.ndarray:
        flat = [x[0].reshape(x.shape[1], -1) for x in outputs]
        return np.concatenate(flat, axis=1, dtype=np.float64)

    x, y = rows(ours), rows(theirs)
    apart = (y**2).sum(1)[:, None] + (x**2).sum(1) - 2 * y @ x.T
    nearest = apart.argmin(1)
    return [output[:, nearest] for output in ours]


def _check_shapes(
    engine: str,
    names: Sequence[str],
    ours: Sequence[Sequence[np.ndarray]],
    theirs: Sequence[Sequence[np.ndarray]],
) -> None:
    """Refuse outputs of other shapes, which numpy would stretch to each other, or not compare."""
    for mine, expected in zip(ours, theirs):
        for name, x, y in zip(names, mine, expected):
            if x.shape != y.shape:
                raise ExportError(
                    f'{engine} disagrees with torch: {name} has the shape {x.shape}, and torch '
                    f'gives {y.shape}; nothing was written'
                )


def compare_all(
    engine: str,
    names: Sequence[str],
    ours: Sequence[Sequence[np.ndarray]],
    theirs: Sequence[Sequence[np.ndarray]],
    unordered: bool = False,
) -> list[OutputAgreement]:
    """Compare all outputs with torch's.

    Args:
        engine: Name of the engine that ran the graph.
        names: Names of the outputs.
        ours: Outputs of the graph for every example.
        theirs: Outputs of torch for every example.
        unordered: Whether rows are regions sorted by their scores. A sign that flips
            near a threshold can then change their order, so each of torch's rows is
            compared with the nearest row. Default False.

    Raises:
        ExportError: If the median relative error of an output exceeds ``TOLERANCE``, or if its
            shape differs.
    """
    _check_shapes(engine, names, ours, theirs)
    if unordered:
        ours = [in_order_of(y, x) for x, y in zip(ours, theirs)]
    agreements = [compare(name, x, y) for name, x, y in zip(names, zip(*ours), zip(*theirs))]
    bad = [str(one) for one in agreements if not one.error <= TOLERANCE]
    if bad:
        raise ExportError(f'{engine} disagrees with torch: {"; ".join(bad)}; nothing was written')
    return agreements


def compare_runs(
    engine: str,
    names: Sequence[str],
    run: Callable[[Sequence[Tensor]], Sequence[np.ndarray]],
    network: nn.Module,
    examples: Sequence[tuple[Tensor, ...]],
    unordered: bool = False,
) -> list[OutputAgreement]:
    """Run a graph and its network on examples, and compare all outputs.

    Args:
        engine: Name of the engine that runs the graph.
        names: Names of the outputs.
        run: Function that runs the graph on one example.
        network: The torch model.
        examples: Inputs of the network, one tuple per example.
        unordered: As :func:`compare_all`'s. Default False.

    Raises:
        ExportError: If the median relative error of an output exceeds ``TOLERANCE``.
    """
    ours, theirs = [], []
    with inference(network):
        for example in examples:
            ours.append(run(example))
            outputs = tree_leaves(network(*example))
            theirs.append([y.detach().float().numpy() for y in outputs])
    return compare_all(engine, names, ours, theirs, unordered)
