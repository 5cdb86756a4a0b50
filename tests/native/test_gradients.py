"""Gradients by tables of signed sums are those of a convolution in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn import native
from tests.native.signs import fastest_again, laid_out, needs_kernels, signs  # noqa: F401

pytestmark = needs_kernels


def reference(x, weight, grad, stride, padding, dilation, groups, pad_value):
    """Return the gradients of input and weight in float64."""
    vertical, horizontal = padding
    sides = (horizontal, horizontal, vertical, vertical)
    x = torch.from_numpy(x).double().requires_grad_()
    weight = torch.from_numpy(weight).double().requires_grad_()
    y = F.conv2d(F.pad(x, sides, value=pad_value), weight, None, stride, 0, dilation, groups)
    return torch.autograd.grad(y, (x, weight), torch.from_numpy(grad).double())


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(
    seed=st.integers(0, 10_000),
    groups=st.integers(1, 3),
    depth=st.sampled_from([1, 3, 31, 64, 65, 130]),
    kernels=st.sampled_from([1, 3, 8, 31, 32, 33]),
    kernel_size=pairs,
    stride=pairs,
    dilation=pairs,
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    pad_value=st.sampled_from([-1, 0, 1]),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 40)),
    batch=st.integers(1, 3),
    channels_last=st.booleans(),
)
def test_any_gradient_is_that_of_float64(
    seed,
    groups,
    depth,
    kernels,
    kernel_size,
    stride,
    dilation,
    padding,
    pad_value,
    extra,
    batch,
    channels_last,
):
    rng = np.random.default_rng(seed)
    # with much padding a map may be smaller than the kernel
    size = tuple(
        max(1, d * (k - 1) + 1 - 2 * p) + e
        for d, k, p, e in zip(dilation, kernel_size, padding, extra)
    )
    x = signs(rng, batch, groups * depth, *size)
    scales = rng.random((groups * kernels, 1, 1, 1)).astype(np.float32) + 0.01
    weight = signs(rng, groups * kernels, depth, *kernel_size) * scales
    options = dict(stride=stride, padding=padding, dilation=dilation)
    packed = native.pack_signs(x, groups=groups), native.pack_weights(weight, groups=groups)
    shape = native.convolve(*packed, **options).shape
    grad = laid_out(rng.standard_normal(shape).astype(np.float32), channels_last)
    expected = reference(x, weight, grad, stride, padding, dilation, groups, pad_value)
    results = []
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        for threads in (1, 3):
            of_x = native.input_gradient(grad, packed[1], size=size, threads=threads, **options)
            of_weight = native.weight_gradient(
                grad,
                packed[0],
                kernel_size=kernel_size,
                pad_value=pad_value,
                threads=threads,
                **options,
            )
            results.append((of_x, of_weight))
    for found in results:
        for ours, theirs, first in zip(found, expected, results[0], strict=True):
            np.testing.assert_array_equal(ours, first)  # of every set and number of threads
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(grad).sum())
    # exactly 0 where no sum is: rounding must not leave numbers of which Adam makes large steps
    assert (results[0][0][expected[0].numpy() == 0] == 0).all()
    outside = (expected[1] == 0).all(dim=1, keepdim=True).expand_as(expected[1]).numpy()
    assert (results[0][1][outside] == 0).all()


@given(
    seed=st.integers(0, 10_000),
    groups=st.integers(1, 2),
    depth=st.sampled_from([1, 3, 64, 130]),
    kernels=st.sampled_from([3, 31, 32, 64, 96]),
    size=st.tuples(st.integers(1, 5), st.integers(1, 70)),
    batch=st.integers(1, 3),
    channels_last=st.booleans(),
)
def test_gradients_of_a_kernel_of_one_pixel(
    seed, groups, depth, kernels, size, batch, channels_last
):
    """Their gradients are read where they lie."""
    rng = np.random.default_rng(seed)
    x = signs(rng, batch, groups * depth, *size)
    weight = signs(rng, groups * kernels, depth, 1, 1)
    grad = rng.standard_normal((batch, groups * kernels, *size)).astype(np.float32)
    expected = reference(x, weight, grad, (1, 1), (0, 0), (1, 1), groups, 0)
    packed, kernel = native.pack_signs(x, groups=groups), native.pack_weights(weight, groups=groups)
    grad = laid_out(grad, channels_last)
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        found = (
            native.input_gradient(grad, kernel, size=size, threads=2),
            native.weight_gradient(grad, packed, kernel_size=(1, 1), threads=2),
        )
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(grad).sum())
        assert found[0].strides == laid_out(found[0], channels_last).strides


@pytest.mark.parametrize(('channels', 'size'), [(128, 28), (256, 14), (512, 7)])
def test_rounding_is_no_worse_than_torchs(channels, size):
    """As large as in a network."""
    rng = np.random.default_rng(0)
    x, weight = signs(rng, 4, channels, size, size), signs(rng, channels, channels, 3, 3)
    grad = rng.standard_normal(x.shape).astype(np.float32)
    expected = reference(x, weight, grad, (1, 1), (1, 1), (1, 1), 1, 0)
    options = dict(padding=(1, 1), threads=2)
    ours = [
        native.input_gradient(grad, native.pack_weights(weight), size=(size, size), **options),
        native.weight_gradient(grad, native.pack_signs(x), kernel_size=(3, 3), **options),
    ]
    theirs = torch.ops.aten.convolution_backward(
        *map(torch.from_numpy, (grad, x, weight)),
        *(None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (True, True, False)),
    )
    for found, torchs, exact in zip(ours, theirs, expected):
        error = np.abs(found - exact.numpy()).mean()
        assert error < 2 * (torchs - exact).abs().mean()


def test_infinities_and_nan_stay_visible():
    x, weight = np.ones((1, 3, 4, 4), np.float32), np.ones((2, 3, 1, 1), np.float32)
    grad = np.zeros((1, 2, 4, 4), np.float32)
    grad[0, 1, 2, 3] = np.nan
    of_x = native.input_gradient(grad, native.pack_weights(weight), size=(4, 4))
    of_weight = native.weight_gradient(grad, native.pack_signs(x), kernel_size=(1, 1))
    assert np.isnan(of_x[0, :, 2, 3]).all()
    assert np.isnan(of_x).sum() == 3
    assert np.isnan(of_weight[1]).all()
    assert not np.isnan(of_weight[0]).any()


def test_wrong_arguments_are_named():
    x, weight = np.ones((1, 4, 5, 5), np.float32), np.ones((2, 4, 3, 3), np.float32)
    packed, kernels = native.pack_signs(x), native.pack_weights(weight)
    grad = np.ones((1, 2, 3, 3), np.float32)
    size, kernel_size = dict(size=(5, 5)), dict(kernel_size=(3, 3))
    cases = [
        (lambda: native.input_gradient(grad.astype(np.float64), kernels, **size), 'grad is of'),
        (lambda: native.input_gradient(grad, kernels, size=(6, 5)), 'grad has the shape'),
        (lambda: native.input_gradient(grad, kernels, size=(2, 5)), 'a map of 2x5 is smaller'),
        (lambda: native.input_gradient(grad, kernels, stride=(0, 1), **size), 'stride'),
        (lambda: native.input_gradient(grad, kernels, threads=0, **size), 'threads=0'),
        (lambda: native.weight_gradient(grad[:, :, :2], packed, **kernel_size), 'grad has'),
        (lambda: native.weight_gradient(grad, packed, pad_value=2, **kernel_size), 'pad_value=2'),
        (
            lambda: native.weight_gradient(grad, packed, kernel_size=(0, 3)),
            'kernel_size=.* least 1',
        ),
        (lambda: native.weight_gradient(grad, packed, threads=True, **kernel_size), 'threads=True'),
        (
            lambda: native.weight_gradient(
                grad[:, :1], native.pack_signs(x, groups=2), kernel_size=(3, 3)
            ),
            '2 groups of x must divide the 1 kernels',
        ),
    ]
    for call, message in cases:
        with pytest.raises(native.NativeError, match=message):
            call()


@pytest.mark.parametrize('centred', [False, True])
@pytest.mark.parametrize('shape', [(3, 5, 3, 3), (2, 600, 2, 2), (1, 1, 1, 1)])
def test_the_gradient_of_latent_weights_is_that_of_float64(shape, centred):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape).astype(np.float32)
    grad = rng.standard_normal(shape).astype(np.float32)
    limits = rng.standard_normal(shape[0]).astype(np.float32)
    away = weight.astype(np.float64) - limits[:, None, None, None]
    expected = np.where(np.abs(away) <= 0.7, grad, 0.0)
    if centred:
        expected -= expected.mean((1, 2, 3), keepdims=True)
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        given = grad.copy()
        found = native.latent_gradient(given, weight, limits, clip=0.7, centred=centred, threads=2)
        assert found is given
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_wrong_latent_weights_are_named():
    weight, limits = np.ones((2, 3, 4, 4), np.float32), np.zeros(2, np.float32)
    cases = [
        (
            lambda: native.latent_gradient(weight[:1], weight, limits, clip=1.0),
            'grad has the shape',
        ),
        (
            lambda: native.latent_gradient(weight.transpose(0, 1, 3, 2), weight, limits, clip=1.0),
            'grad must be contiguous',
        ),
        (
            lambda: native.latent_gradient(weight, weight, limits[:1], clip=1.0),
            'limits has the shape',
        ),
        (lambda: native.latent_gradient(weight, weight[0], limits, clip=1.0), 'weight has'),
    ]
    for call, message in cases:
        with pytest.raises(native.NativeError, match=message):
            call()
