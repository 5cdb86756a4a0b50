"""The native kernels compute the operators' sums exactly on every processor."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn import native
from tests.native.signs import fastest_again, laid_out, needs_kernels, signs  # noqa: F401

pytestmark = needs_kernels


def reference(x, weight, stride, padding, dilation, groups, pad_value):
    """Return sums of +-1 in float64, times the scale of each kernel in float32."""
    vertical, horizontal = padding
    sides = (horizontal, horizontal, vertical, vertical)
    x = F.pad(torch.from_numpy(x).double(), sides, value=pad_value)
    kernels = torch.from_numpy(weight).double().sign()
    sums = F.conv2d(x, kernels, None, stride, 0, dilation, groups).numpy()
    return sums.astype(np.float32) * np.abs(weight[:, 0, 0, 0])[None, :, None, None]


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
depths = st.sampled_from([1, 3, 8, 63, 64, 65, 130])


@given(
    seed=st.integers(0, 10_000),
    groups=st.integers(1, 3),
    depth=depths,
    kernels=st.sampled_from([1, 7, 8, 9, 40]),
    kernel_size=pairs,
    stride=pairs,
    dilation=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    pad_value=st.sampled_from([-1, 0, 1]),
    extra=st.tuples(*[st.integers(0, 9)] * 2),
    batch=st.integers(1, 2),
    threads=st.integers(1, 3),
    layouts=st.tuples(st.booleans(), st.booleans()),
)
def test_any_convolution_is_exact(
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
    threads,
    layouts,
):
    rng = np.random.default_rng(seed)
    size = [d * (k - 1) + 1 + e for d, k, e in zip(dilation, kernel_size, extra)]
    x = signs(rng, batch, groups * depth, *size)
    scales = rng.random((groups * kernels, 1, 1, 1)).astype(np.float32) + 0.01
    weight = signs(rng, groups * kernels, depth, *kernel_size) * scales
    expected = reference(x, weight, stride, padding, dilation, groups, pad_value)
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        packed = native.pack_signs(
            laid_out(x, layouts[0]), groups=groups, strict=True, threads=threads
        )
        y = native.convolve(
            packed,
            native.pack_weights(weight, groups=groups),
            stride=stride,
            padding=padding,
            dilation=dilation,
            pad_value=pad_value,
            channels_last=layouts[1],
            threads=threads,
        )
        np.testing.assert_array_equal(y, expected, err_msg=name)
        assert (y if not layouts[1] else y.transpose(0, 2, 3, 1)).flags.c_contiguous


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('depth', [3, 64, 130])
@pytest.mark.parametrize('kernels', [31, 32, 33, 64, 101])
def test_many_kernels_and_pixels(kernels, depth, groups):
    """With as many, some instruction sets pack the weights in another way."""
    rng = np.random.default_rng(kernels)
    x = signs(rng, 1, groups * depth, 25, 23)
    weight = signs(rng, groups * kernels, depth, 3, 2)
    expected = reference(x, weight, (1, 1), (1, 0), (1, 1), groups, 0)
    packed_weight = native.pack_weights(weight, groups=groups)
    assert expected.shape[2] * expected.shape[3] > 512
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        packed = native.pack_signs(x, groups=groups)
        y = native.convolve(packed, packed_weight, padding=(1, 0), threads=2)
        np.testing.assert_array_equal(y, expected, err_msg=name)


def test_rows_longer_than_16_bits():
    """Equal signs add up to more than 65535; the rest has an odd number of words."""
    x = np.ones((1, 1040 * 64 + 5, 23, 23), np.float32)
    weight = np.ones((32, x.shape[1], 1, 1), np.float32)
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        for sign in (1, -1):
            y = native.convolve(native.pack_signs(x), native.pack_weights(sign * weight))
            assert (y == sign * x.shape[1]).all(), name


@given(
    seed=st.integers(0, 10_000),
    channels=depths,
    pixels=st.integers(1, 200),
    channels_last=st.booleans(),
)
def test_packed_bits_are_comparisons(seed, channels, pixels, channels_last):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, channels, 1, pixels)).astype(np.float32)
    limits = rng.standard_normal(channels).astype(np.float32)
    x[:, :, :, 0] = limits[:, None]  # an entry that equals its threshold is -1
    above = (x > limits[None, :, None, None])[0, :, 0].T
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        packed = native.pack_signs(laid_out(x, channels_last), thresholds=limits)
        bits = np.unpackbits(packed.words.view(np.uint8), axis=-1, bitorder='little')
        bits = bits.reshape(pixels, -1)
        np.testing.assert_array_equal(bits[:, :channels], above)
        assert not bits[:, channels:].any()


@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 64, 65]),
    size=st.tuples(st.integers(1, 20), st.sampled_from([1, 7, 40])),
)
def test_means_are_those_of_float64(seed, batch, groups, channels, size):
    rng = np.random.default_rng(seed)
    x = 5 + rng.standard_normal((batch, groups * channels, *size)).astype(np.float32)
    bits = native.pack_signs(x, groups=groups).words
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        alone, shared = (
            native.pack_signs(x, groups=groups, with_means=True, threads=threads)
            for threads in (1, 3)
        )
        np.testing.assert_allclose(alone.means, x.astype(np.float64).mean((2, 3)), rtol=1e-6)
        np.testing.assert_array_equal(shared.means, alone.means)
        np.testing.assert_array_equal(alone.words, bits)
        assert native.pack_signs(x).means is None


@pytest.mark.parametrize('value', [0.0, 0.5, 2.0, np.nan, np.inf])
@pytest.mark.parametrize('place', [0, 7, 8, 17])
@pytest.mark.parametrize('channels_last', [False, True])
def test_what_is_no_sign_is_seen(value, place, channels_last):
    x = np.ones((1, 3, 1, 19), np.float32)
    x[0, 2, 0, place] = value
    x = laid_out(x, channels_last)
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        assert native.pack_signs(x, strict=True) is None
        assert native.pack_signs(x) is not None


def test_weights_of_other_values_are_not_packed():
    weight = np.ones((2, 3, 1, 1), np.float32)
    assert native.pack_weights(weight) is not None
    for value in (0.0, 0.5, np.nan, np.inf):
        weight[1, 1] = value
        assert native.pack_weights(weight) is None
    assert native.pack_weights(np.zeros((1, 2, 1, 1), np.float32)) is None


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('size', [(6, 5), (3, 3)])
def test_sums_are_integers_without_scales(channels_last, size):
    rng = np.random.default_rng(0)
    weight = signs(rng, 9, 70, 3, 3) * rng.random((9, 1, 1, 1)).astype(np.float32)
    x = signs(rng, 2, 70, *size)
    packed, kernels = native.pack_signs(x), native.pack_weights(weight)
    y = native.convolve(packed, kernels, channels_last=channels_last, threads=2)
    sums = native.convolve_sums(packed, kernels, channels_last=channels_last, threads=2)
    exact = F.conv2d(torch.from_numpy(x).double(), torch.from_numpy(np.sign(weight)).double())
    assert sums.dtype == np.int16
    np.testing.assert_array_equal(sums, exact.numpy())
    again = native.scale_sums(sums, kernels.scales, threads=2)
    np.testing.assert_array_equal(again, y, strict=True)
    assert is_last(again) == is_last(y)


def is_last(x):
    return x.transpose(0, 2, 3, 1).flags.c_contiguous


def test_sums_of_too_many_terms_or_other_arrays_are_refused():
    packed = native.pack_signs(np.ones((1, native.kernels.MOST_TERMS + 1, 1, 1), np.float32))
    kernels = native.pack_weights(np.ones((1, packed.channels, 1, 1), np.float32))
    assert native.convolve(packed, kernels).item() == packed.channels
    with pytest.raises(native.NativeError, match='a sum has 32768 terms'):
        native.convolve_sums(packed, kernels)
    sums, scales = np.ones((2, 3, 4, 4), np.int16), np.ones(3, np.float32)
    cases = [
        (lambda: native.scale_sums(sums.astype(np.int32), scales), 'sums is of int32'),
        (lambda: native.scale_sums(sums[0], scales), r'sums has the shape \(3, 4, 4\)'),
        (lambda: native.scale_sums(sums[..., ::2], scales), 'sums has another layout'),
        (lambda: native.scale_sums(sums[:0], scales), r'\(0, 3, 4, 4\); it must have 4 axes'),
        (lambda: native.scale_sums(sums, scales[:2]), 'scales has 2 entries for 3 channels'),
        (lambda: native.scale_sums(sums, scales, threads=0), 'threads=0'),
    ]
    for call, message in cases:
        with pytest.raises(native.NativeError, match=message):
            call()


def test_latent_weights_are_their_signs():
    """Of any numbers; 0 is -1, as in a sign."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((33, 70, 3, 2)).astype(np.float32)
    latent[rng.random(latent.shape) < 0.1] = 0
    latent[0, 0, 0, 0] = np.inf
    limits = rng.integers(-1, 2, 33).astype(np.float32)
    latent[1, 2, 0, 0] = limits[1]  # is not above it
    found = native.pack_weights(latent, thresholds=limits, threads=2)
    above = latent > limits[:, None, None, None]
    expected = native.pack_weights(np.where(above, 1, -1).astype(np.float32))
    np.testing.assert_array_equal(found.words, expected.words)
    assert (found.scales == 1).all()
    latent[32, 69, 2, 1] = np.nan
    assert native.pack_weights(latent, thresholds=limits) is None
    zeros = np.zeros((1, 2, 1, 1), np.float32)
    assert native.pack_weights(zeros, thresholds=np.zeros(1, np.float32)) is not None
    with pytest.raises(native.NativeError, match=r'thresholds.*\(33,\).*1 kernels'):
        native.pack_weights(zeros, thresholds=limits)


@pytest.mark.parametrize('channels_last', [False, True])
def test_a_nan_is_above_and_below_no_threshold(channels_last):
    x, limits = np.full((2, 70, 3, 5), np.inf, np.float32), np.zeros(70, np.float32)
    options = dict(thresholds=limits, strict=True)
    assert native.pack_signs(laid_out(x, channels_last), **options) is not None
    x[1, 69, 2, 4] = np.nan
    assert native.pack_signs(laid_out(x, channels_last), **options) is None
    assert native.pack_signs(laid_out(x, channels_last), thresholds=limits) is not None


def test_wrong_arguments_are_named():
    x, weight = np.ones((1, 4, 5, 5), np.float32), np.ones((2, 4, 3, 3), np.float32)
    packed, kernels = native.pack_signs(x), native.pack_weights(weight)
    cases = [
        (lambda: native.pack_signs(x.astype(np.float64)), 'x is of float64'),
        (lambda: native.pack_signs(x[0]), r'x has the shape \(4, 5, 5\)'),
        (lambda: native.pack_signs(x, groups=3), 'groups=3'),
        (lambda: native.pack_signs(x, threads=0), 'threads=0'),
        (lambda: native.pack_signs(laid_out(x, True), with_means=True), 'with_means=True is not'),
        (lambda: native.pack_signs(x, thresholds=x[0, 0, 0]), 'thresholds'),
        (lambda: native.pack_weights(weight, groups=4), 'groups=4'),
        (lambda: native.convolve(packed, kernels, pad_value=2), 'pad_value=2'),
        (lambda: native.convolve(packed, kernels, stride=(0, 1)), r'stride=\(0, 1\).* least 1'),
        (lambda: native.convolve(packed, kernels, padding=(0, -1)), r'padding=.* least 0'),
        (lambda: native.convolve(packed, kernels, dilation=(1, 0)), r'dilation=\(1, 0\).* least 1'),
        (lambda: native.convolve(packed, kernels, dilation=(3, 1)), 'smaller'),
        (lambda: native.convolve(packed, native.pack_weights(weight[:, :3])), 'groups'),
        (lambda: native.use_instruction_set('mmx'), "name='mmx'"),
    ]
    for call, message in cases:
        with pytest.raises(native.NativeError, match=message):
            call()


@pytest.mark.parametrize('taps', [1, 3])
def test_scales_of_latent_weights_are_means_of_their_magnitudes(taps):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((9, 1300, taps, taps)).astype(np.float32)
    limits = rng.standard_normal(9).astype(np.float32)
    plain = native.pack_weights(weight, thresholds=limits)
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        packed = native.pack_weights(weight, thresholds=limits, scaled=True, threads=2)
        np.testing.assert_array_equal(packed.words, plain.words)
        exact = np.abs(weight.astype(np.float64)).mean((1, 2, 3))
        np.testing.assert_allclose(packed.scales, exact, rtol=2e-7)
    assert set(plain.scales) == {1.0}


def test_latent_operands_that_are_not_finite_are_not_packed():
    weight, ones = np.ones((2, 3, 1, 1), np.float32), np.ones(2, np.float32)
    for value in (np.nan, np.inf, -np.inf):
        limits = np.array([0.0, value], np.float32)
        assert native.pack_weights(weight, thresholds=limits) is None
        x = np.ones((1, 2, 3, 3), np.float32)
        assert native.pack_signs(x, thresholds=limits, strict=True) is None
        assert native.pack_signs(x, thresholds=limits) is not None
    weight[1, 2] = np.inf
    assert native.pack_weights(weight, thresholds=ones) is not None
    assert native.pack_weights(weight, thresholds=ones, scaled=True) is None
    assert native.pack_weights(0 * ones[:, None, None, None], thresholds=ones, scaled=True) is None
    with pytest.raises(native.NativeError, match='scaled=True is for latent weights'):
        native.pack_weights(ones[:, None, None, None], scaled=True)


@pytest.mark.parametrize('channels_last', [False, True])
def test_arrays_that_cannot_be_written_are_read(channels_last):
    rng = np.random.default_rng(0)
    x = laid_out(rng.standard_normal((2, 70, 4, 5)).astype(np.float32), channels_last)
    expected = native.pack_signs(x)
    x.flags.writeable = False
    np.testing.assert_array_equal(native.pack_signs(x).words, expected.words)
