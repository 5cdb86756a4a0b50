"""Signs for the heads of attention, against numpy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn import native
from tests.native.signs import fastest_again, needs_kernels  # noqa: F401

pytestmark = needs_kernels


def divided(x, heads):
    """Return tokens with the heads before them."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    tokens=st.sampled_from([1, 5, 63, 64, 130]),
    heads=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 8, 33, 64]),
    surrogate=st.sampled_from(['window', 'triangle']),
    threads=st.integers(1, 3),
)
def test_any_signs_of_heads(seed, batch, tokens, heads, channels, surrogate, threads):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, tokens, heads * channels)).astype(np.float32)
    shift = rng.choice([0.0, 0.25, -1.0], heads * channels).astype(np.float32)
    x = np.where(rng.random(x.shape) < 0.1, -shift, x)  # the sign of 0 is -1
    grad = rng.standard_normal((batch, heads, tokens, channels)).astype(np.float32)
    inner = x + shift
    expected = divided(np.where(inner > 0, 1, -1), heads)
    slope = np.abs(inner) <= 0.5
    if surrogate == 'triangle':
        slope = np.maximum(0, 2 - 2 * np.abs(inner))
    back = grad.transpose(0, 2, 1, 3).reshape(x.shape)
    options = dict(heads=heads, surrogate=surrogate, clip=0.5)
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        found = native.head_signs(x, shift, heads=heads, threads=threads)
        np.testing.assert_array_equal(found, expected)
        of_x, of_shift = native.head_signs_gradient(grad, x, shift, **options, threads=threads)
        np.testing.assert_allclose(of_x, back * slope, rtol=1e-6)
        sums = (back * slope).astype(np.float64).sum((0, 1))
        np.testing.assert_allclose(of_shift, sums, rtol=0, atol=1e-5 * np.sqrt(x.size))
        alone = native.head_signs_gradient(grad, x, shift, **options)
        np.testing.assert_array_equal(of_shift, alone[1])


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_so(value):
    x = np.full((1, 2, 18), 0.5, np.float32)
    x[0, 1, [0, 9, 17]] = value
    expected = np.ones_like(x)
    expected[x == -np.inf], expected[np.isnan(x)] = -1, np.nan
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        found = native.head_signs(x, np.zeros(18, np.float32), heads=2)
        np.testing.assert_array_equal(found, divided(expected, 2))


def test_wrong_arguments_are_named():
    x, shift, grad = (np.ones(s, np.float32) for s in ((2, 3, 4), 4, (2, 2, 3, 2)))
    window = dict(surrogate='window')
    gradient = native.head_signs_gradient
    cases = [
        (lambda: native.head_signs(x[0], shift, heads=2), 'x has the shape'),
        (lambda: native.head_signs(x.astype(np.float64), shift, heads=2), 'x is of float64'),
        (lambda: native.head_signs(x, shift, heads=3), 'heads=3 must divide the 4 channels'),
        (lambda: native.head_signs(x, shift, heads=0), 'heads=0 must divide'),
        (lambda: native.head_signs(x, shift[:2], heads=2), 'shift has the shape'),
        (lambda: native.head_signs(x, shift, heads=2, threads=0), 'threads=0'),
        (lambda: gradient(grad, x, shift, heads=4, **window), 'grad has the shape'),
        (lambda: gradient(grad, x, shift[:2], heads=2, **window), 'shift has the shape'),
        (lambda: gradient(grad, x, shift, heads=2, surrogate='step'), "surrogate='step'"),
    ]
    for call, message in cases:
        with pytest.raises(native.NativeError, match=message):
            call()
