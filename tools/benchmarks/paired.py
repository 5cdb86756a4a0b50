"""Paired differences between two kinds of training, from runs that share a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from mmesbnn.optional import require


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences with its confidence interval.

    Attributes:
        mean: Mean difference.
        low: Lower end of its confidence interval; NaN for a single pair.
        high: Upper end.
        pairs: Number of pairs.
    """

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def clear(self) -> bool:
        """Return whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def in_words(self, digits: int) -> str:
        """Return ``+0.10 [+0.05, +0.15] *``; the star: the interval excludes 0."""
        text = f'{self.mean:+.{digits}f}'
        if self.pairs > 1:
            text += f' [{self.low:+.{digits}f}, {self.high:+.{digits}f}]'
        return text + (' *' if self.clear else '')


def paired_difference(
    values: Sequence[float], baseline: Sequence[float], confidence: float = 0.95
) -> PairedDifference:
    """Compute the mean of ``values - baseline`` with Student's confidence interval.

    The interval is ``mean(d) +- t * stdev(d) / sqrt(n)``, where ``t`` is the quantile of
    the t distribution with ``n - 1`` degrees of freedom. The two runs of a pair share the
    data, their order and the seed, so these do not influence the difference.

    Args:
        values: One number per pair.
        baseline: The other number, in the same order.
        confidence: Probability that the interval covers the true mean. Default 0.95.

    Raises:
        ValueError: If there are no pairs, the lengths differ, or ``confidence`` is not
            between 0 and 1.
        ImportError: If scipy is missing.

    Source: Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    if not values or len(values) != len(baseline):
        raise ValueError(f'{len(values)} values and {len(baseline)} baselines make no pairs')
    if not 0 < confidence < 1:
        raise ValueError(f'confidence={confidence} must be between 0 and 1')
    differences = [a - b for a, b in zip(values, baseline)]
    centre, count = mean(differences), len(differences)
    if count == 1:
        return PairedDifference(centre, math.nan, math.nan, 1)
    require('scipy', 'demo', 'A confidence interval')
    from scipy.stats import t

    quantile = float(t.ppf(0.5 + confidence / 2, count - 1))
    half = quantile * stdev(differences) / math.sqrt(count)
    return PairedDifference(centre, centre - half, centre + half, count)
