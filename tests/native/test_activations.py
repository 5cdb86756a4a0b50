"""Elastic binarization on the native kernels is that of torch's operators."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn import native
from tests.native.signs import fastest_again, needs_kernels  # noqa: F401

pytestmark = needs_kernels

CLIPS = [native.activations.LEAST_CLIP, 0.005, 0.37, 1.0, 3.0]


def probabilities(rng, clip, shape):
    """Return numbers at random, and all bounds with their neighbours."""
    clip = np.float32(clip)
    near = [np.nextafter(one, np.float32(to)) for one in (clip / 2, clip) for to in (-9, 9)]
    x = rng.uniform(-0.2, 1.5, shape).astype(np.float32) * clip
    special = np.array([0, clip / 2, clip, *near, np.inf, -np.inf], np.float32)
    return np.where(rng.random(shape) < 0.3, rng.choice(special, shape), x)


@given(
    seed=st.integers(0, 10_000),
    shape=st.one_of(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 20), st.integers(1, 60)),
        st.tuples(st.sampled_from([1023, 1024, 1025, 5000])),
    ),
    clip=st.sampled_from(CLIPS),
    threads=st.integers(1, 3),
)
def test_any_elastic_binarization(seed, shape, clip, threads):
    rng = np.random.default_rng(seed)
    x = probabilities(rng, clip, shape)
    grad = rng.standard_normal(shape).astype(np.float32)
    clip = float(np.float32(clip))
    # as torch rounds the quotient
    ratio = x / np.float32(clip)
    expected = np.float32(clip) * np.clip(ratio, 0, 1).round()
    inside = (ratio >= 0) & (ratio <= 1)
    wide = np.where(np.isfinite(x), x, 0).astype(np.float64) / clip
    factor = np.where(inside, np.clip(ratio, 0, 1).round() - wide, ratio > 1)
    of_clip = (grad * factor).sum()
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        np.testing.assert_array_equal(native.elastic_values(x, clip, threads=threads), expected)
        found = native.elastic_gradients(grad, x, clip, threads=threads)
        np.testing.assert_array_equal(found[0], np.where(inside, grad, 0))
        np.testing.assert_allclose(found[1], of_clip, rtol=0, atol=1e-5 * grad.size**0.5)
        assert found[1] == native.elastic_gradients(grad, x, clip)[1]


@pytest.mark.parametrize('place', [0, 9, 17])
def test_nan_stays_nan(place):
    x = np.full(18, 0.5, np.float32)
    x[place] = np.nan
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        found = np.isnan(native.elastic_values(x, 0.25))
        assert found.nonzero()[0].tolist() == [place]


def test_wrong_arguments_are_named():
    x = np.ones((2, 3), np.float32)
    cases = [
        (lambda: native.elastic_values(x.astype(np.float64), 1.0), 'x is of float64'),
        (lambda: native.elastic_values(x[:, ::2], 1.0), 'x must be contiguous'),
        (lambda: native.elastic_values(x, 0.0), r'clip=0.0 must be a number >= 1e-30'),
        (lambda: native.elastic_values(x, float('nan')), 'clip=nan'),
        (lambda: native.elastic_values(x, float('inf')), 'clip=inf'),
        (lambda: native.elastic_values(x, 1.0, threads=0), 'threads=0'),
        (lambda: native.elastic_gradients(x[:1], x, 1.0), 'grad has the shape'),
        (lambda: native.elastic_gradients(x, x, -1.0), 'clip=-1.0'),
    ]
    for call, message in cases:
        with pytest.raises(native.NativeError, match=message):
            call()
