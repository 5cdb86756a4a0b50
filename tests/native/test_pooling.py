"""Poolings on the native kernels are torch's, to the last bit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn import native
from tests.native.signs import fastest_again, needs_kernels  # noqa: F401

pytestmark = needs_kernels


def torchs(function, x, grad=None):
    """Return the result of a function of torch, and the gradient of ``x``."""
    leaf = torch.from_numpy(x).requires_grad_()
    y = function(leaf)
    grad = torch.ones_like(y) if grad is None else torch.from_numpy(grad)
    return y.detach().numpy(), torch.autograd.grad(y, leaf, grad)[0].numpy()


@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    threads=st.integers(1, 3),
)
def test_any_average_is_torchs(seed, batch, channels, size, threads):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, channels, 2 * size[0], 2 * size[1])).astype(np.float32)
    grad = rng.standard_normal((batch, channels, *size)).astype(np.float32)
    y, of_x = torchs(lambda leaf: F.avg_pool2d(leaf, 2), x, grad)
    np.testing.assert_array_equal(native.average_pool(x, threads=threads), y)
    np.testing.assert_array_equal(native.average_pool_gradient(grad, threads=threads), of_x)


@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
    size=st.tuples(st.integers(1, 5), st.sampled_from([1, 3, 40, 255, 257, 600])),
    threads=st.integers(1, 3),
)
def test_any_average_of_a_prelu_is_that_of_both(seed, batch, channels, size, threads):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, channels, 2 * size[0], 2 * size[1])).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = 0
    grad = rng.standard_normal((batch, channels, *size)).astype(np.float32)
    slope = rng.standard_normal(channels).astype(np.float32)
    leaves = [torch.from_numpy(one).requires_grad_() for one in (x, slope)]
    y = F.avg_pool2d(F.prelu(*leaves), 2)
    of_x, of_slope = torch.autograd.grad(y, leaves, torch.from_numpy(grad))
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        found = native.average_activated(x, slope, threads=threads)
        np.testing.assert_array_equal(found, y.detach().numpy())
        found = native.average_activated_gradients(grad, x, slope, threads=threads)
        np.testing.assert_array_equal(found[0], of_x.numpy())
        np.testing.assert_allclose(found[1], of_slope.numpy(), rtol=0, atol=1e-5 * x.size**0.5)


@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 2),
    channels=st.integers(1, 3),
    extra=st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 2, 7, 63, 64, 65, 130, 200])),
    kernel=st.sampled_from([1, 2, 3, 5, 15]),
    stride=st.sampled_from([1, 2, 3, 17]),
    padded=st.booleans(),
    values=st.sampled_from(['any', 'equal', 'nan', 'infinite']),
    threads=st.integers(1, 3),
)
def test_any_maximum_is_torchs(
    seed, batch, channels, extra, kernel, stride, padded, values, threads
):
    rng, padding = np.random.default_rng(seed), kernel // 2 if padded else 0
    size = tuple(max(1, kernel - 2 * padding) + more for more in extra)
    x = rng.standard_normal((batch, channels, *size)).astype(np.float32)
    if values == 'equal':
        x = x.round()
    if values in ('nan', 'infinite'):
        x[rng.random(x.shape) < 0.5] = np.nan if values == 'nan' else -np.inf
    window = dict(kernel=kernel, stride=stride, padding=padding)
    y, places = native.max_pool(x, **window, threads=threads)
    grad = rng.standard_normal(y.shape).astype(np.float32)
    expected, of_x = torchs(lambda leaf: F.max_pool2d(leaf, kernel, stride, padding), x, grad)
    np.testing.assert_array_equal(y, expected)
    found = native.max_pool_gradient(grad, places, size=size, **window, threads=threads)
    np.testing.assert_array_equal(found, of_x)


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9)),
    window=st.sampled_from([1, 2, 3, 8, 16, 100]),
    threads=st.integers(1, 3),
)
def test_any_mean_of_neighbours_is_that_of_float64(seed, shape, window, threads):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*shape, window)).astype(np.float32)
    grad = rng.standard_normal(shape).astype(np.float32)
    means = native.average_neighbours(x, threads=threads)
    np.testing.assert_allclose(means, x.astype(np.float64).mean(-1), rtol=0, atol=1e-6)
    of_x = native.average_neighbours_gradient(grad, window, threads=threads)
    expected = np.repeat(grad[..., None].astype(np.float64) / window, window, -1)
    np.testing.assert_allclose(of_x, expected, rtol=2e-7)


def test_bad_arguments():
    x, grad = np.ones((1, 2, 4, 6), np.float32), np.ones((1, 2, 2, 3), np.float32)
    window, slope = dict(kernel=3, stride=2, padding=1), np.ones(2, np.float32)
    _, places = native.max_pool(x, **window)
    gradient = native.max_pool_gradient
    cases = [
        (lambda: native.average_pool(x[:, :, :3]), 'map of 3x6 pixels; both must be even'),
        (lambda: native.average_pool(x.astype(np.float64)), 'must be a float32 array'),
        (lambda: native.average_pool(x, threads=0), 'threads=0 must be an integer >= 1'),
        (lambda: native.average_pool_gradient(grad[0]), 'must have 4 axes'),
        (lambda: native.average_activated(x[:, :, :3], slope), 'map of 3x6 pixels'),
        (lambda: native.average_activated(x, slope[:1]), 'slope has the shape'),
        (lambda: native.average_activated_gradients(x, x, slope), 'grad has the shape'),
        (lambda: native.average_activated_gradients(grad, x, slope[:1]), 'slope has the shape'),
        (lambda: native.average_neighbours(x[0]), 'must have 4 axes'),
        (lambda: native.average_neighbours(x, threads=-1), 'threads=-1'),
        (lambda: native.average_neighbours_gradient(grad[0], 0), 'window=0 must be >= 1'),
        (lambda: native.max_pool(x, kernel=16, stride=2, padding=1), 'kernel=16, stride=2'),
        (lambda: native.max_pool(x, kernel=3, stride=0, padding=1), 'stride=0'),
        (lambda: native.max_pool(x, kernel=3, stride=1, padding=2), 'padding=2'),
        (lambda: native.max_pool(x, kernel=7, stride=1, padding=1), '4x6 is smaller than kernel=7'),
        (lambda: gradient(grad, places, size=(9, 6), **window), 'grad has the shape'),
        (lambda: gradient(grad, places[:, :1], size=(4, 6), **window), 'places'),
        (lambda: gradient(grad, places.astype(int), size=(4, 6), **window), 'max_pool returned'),
        (lambda: gradient(grad, places + np.uint8(9), size=(4, 6), **window), 'do not fit'),
    ]
    for call, message in cases:
        with pytest.raises(native.NativeError, match=message):
            call()
