"""Paired differences equal scipy's t test, and their intervals have the right coverage."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tools.benchmarks.paired import paired_difference

stats = pytest.importorskip('scipy.stats')
numbers = st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=8)


@given(numbers, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_is_that_of_the_paired_t_test(pairs, confidence):
    values, baseline = zip(*pairs)
    differences = np.subtract(values, baseline)
    assume(differences.std() > 1e-6)
    got = paired_difference(values, baseline, confidence)
    low, high = stats.ttest_rel(values, baseline).confidence_interval(confidence)
    assert got.pairs == len(pairs)
    assert got.mean == pytest.approx(differences.mean(), abs=1e-9)
    assert (got.low, got.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


def test_three_pairs_by_hand():
    got = paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    # differences 1, 2, 3: mean 2, deviation 1, t(2, 0.975) = 4.302653
    half = 4.302653 / math.sqrt(3)
    assert (got.mean, got.pairs) == (2.0, 3)
    assert (got.low, got.high) == pytest.approx((2 - half, 2 + half), rel=1e-6)
    assert not got.clear
    assert paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0], 0.8).clear


def test_signs_and_equal_differences():
    assert paired_difference([1.0, 2.0], [2.0, 3.0]).clear
    assert not paired_difference([1.0, 2.0], [1.0, 2.0]).clear


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = [
        (d := paired_difference(rng.normal(1, 1, 4).tolist(), [0.0] * 4)).low < 1 < d.high
        for _ in range(1000)
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_one_pair_has_no_interval():
    got = paired_difference([2.0], [1.5])
    assert (got.mean, got.pairs, got.clear) == (0.5, 1, False)
    assert math.isnan(got.low) and math.isnan(got.high)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (([], []), '0 values and 0 baselines'),
        (([1.0], [1.0, 2.0]), '1 values and 2 baselines'),
        (([1.0], [1.0], 1.0), 'confidence=1.0'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(*arguments)
