"""Min-max quantization equals its formula in numpy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from mmesbnn.models.layers.minmax import (
    CONV_CLIP,
    LINEAR_CLIP,
    MinMaxConv2d,
    MinMaxLinear,
    minmax_quantize,
    quantize_weight,
)


def numpy_minmax(x, bits, clip, axes):
    x = np.clip(np.asarray(x, np.float64), -clip, clip)
    low = x.min(axes, keepdims=True)
    span = x.max(axes, keepdims=True) - low + 1e-8
    levels = 2**bits - 1
    return np.round((x - low) / span * levels) / levels * span + low


def numpy_weight(weight, bits, clip):
    weight = np.asarray(weight, np.float64)
    scale = 2 * np.abs(weight).mean(tuple(range(1, weight.ndim)), keepdims=True)
    slices = weight.ndim == 4 and weight.shape[2:] != (1, 1)
    axes = (2, 3) if slices else tuple(range(1, weight.ndim))
    return numpy_minmax(weight / scale, bits, clip, axes) * scale


def assert_same(got, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got.detach(), expected, rtol=1e-12, atol=1e-12)


def double(*shape):
    return torch.randn(shape, dtype=torch.float64)


@given(
    arrays(np.float64, (3, 4, 5), elements=st.floats(-40, 40)),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(0.5, 50),
    st.integers(1, 3),
)
def test_quantization_formula(x, bits, clip, dims):
    expected = numpy_minmax(x, bits, clip, tuple(range(-dims, 0)))
    assert_same(minmax_quantize(torch.from_numpy(x), bits, clip, dims), expected)


@pytest.mark.parametrize('bits', [1, 2, 3, 8])
def test_values_lie_on_at_most_two_to_the_bits_levels(bits):
    x = double(2, 5000)
    y = minmax_quantize(x, bits, clip=10)
    for row, quantized in zip(x, y, strict=True):
        levels = quantized.unique()
        assert len(levels) <= 2**bits
        step = (row.max() - row.min()) / (2**bits - 1)
        assert (quantized - row).abs().max() <= step / 2 + 1e-8
        torch.testing.assert_close(levels[[0, -1]], torch.stack([row.min(), row.max()]))


def test_gradient_passes_where_nothing_was_clipped():
    x = torch.tensor([-3.0, -2.0, -0.7, 0.1, 2.0, 2.1], requires_grad=True)
    upstream = torch.arange(1.0, 7)
    minmax_quantize(x, 4, clip=2).backward(upstream)
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0]


@pytest.mark.parametrize('requires_grad', [False, True])
def test_equal_values_and_nan(requires_grad):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = torch.full((2, 3), 0.5, dtype=dtype)
        x[1, 0] = math.nan
        y = minmax_quantize(x.requires_grad_(requires_grad), 8, clip=10)
        assert y.dtype == dtype
        assert y[0].tolist() == [0.5] * 3
        assert y[1].isnan().all()


@pytest.mark.parametrize('shape', [(4, 3), (4, 3, 1, 1), (4, 3, 3, 3), (4, 3, 1, 3)])
@pytest.mark.parametrize('bits', [2, 8])
def test_weight_formula(shape, bits):
    weight = double(*shape)
    for clip in (0.6, CONV_CLIP):
        got = quantize_weight(weight, bits, clip)
        assert_same(got, numpy_weight(weight.numpy(), bits, clip))


def test_larger_kernels_have_one_range_per_slice():
    weight = double(2, 3, 3, 3)
    quantized = quantize_weight(weight, 1, CONV_CLIP)
    torch.testing.assert_close(quantized.amax((2, 3)), weight.amax((2, 3)))
    torch.testing.assert_close(quantized.amin((2, 3)), weight.amin((2, 3)))


def test_pointwise_kernels_have_one_range_per_output():
    weight = double(4, 9, 1, 1)
    quantized = quantize_weight(weight, 1, CONV_CLIP)
    torch.testing.assert_close(quantized.amax(1), weight.amax(1))
    torch.testing.assert_close(quantized.amin(1), weight.amin(1))
    assert all(len(row.unique()) == 2 for row in quantized)


def test_weight_gradient_is_masked_in_units_of_the_scale():
    weight = torch.tensor([[0.1, -0.1, 3.0, -0.8]], dtype=torch.float64)  # scale 2
    weight.requires_grad_()
    upstream = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    quantize_weight(weight, 8, clip=1).backward(upstream)
    assert_same(weight.grad, torch.tensor([[1.0, 2.0, 0.0, 4.0]]))


def test_zero_weights_stay_zero():
    weight = double(2, 3, 3, 3)
    weight[0] = 0
    quantized = quantize_weight(weight.requires_grad_(), 8, CONV_CLIP)
    assert not quantized[0].any()
    quantized.sum().backward()
    assert_same(weight.grad, torch.ones_like(weight))


@pytest.mark.parametrize('kernel', [1, 3])
def test_conv_quantizes_weights_and_inputs(kernel):
    layer = MinMaxConv2d(6, 4, kernel, padding=kernel // 2, groups=2, bits=4).double()
    x = double(3, 6, 1, 1)
    quantized = torch.from_numpy(numpy_minmax(x.numpy(), 4, CONV_CLIP, (1, 2, 3)))
    weight = torch.from_numpy(numpy_weight(layer.weight.detach().numpy(), 4, CONV_CLIP))
    expected = F.conv2d(quantized, weight, layer.bias, padding=kernel // 2, groups=2)
    assert_same(layer(x), expected)


def test_stems_quantize_weights_only():
    layer = MinMaxConv2d(3, 4, 3, stride=2, bits=8, quantize_input=False).double()
    x = double(2, 3, 7, 7)
    weight = quantize_weight(layer.weight, 8, CONV_CLIP)
    assert_same(layer(x), F.conv2d(x, weight, layer.bias, 2).detach())


@pytest.mark.parametrize('options', [dict(bits=32), dict(in_channels=3)])
def test_inputs_of_32_bits_or_three_channels_stay_real(options):
    layer = MinMaxConv2d(**{'in_channels': 4, **options}, out_channels=2, kernel_size=1)
    x = torch.randn(2, layer.in_channels, 1, 1)
    weight = quantize_weight(layer.weight, layer.mac_bits, CONV_CLIP)
    assert torch.equal(layer(x), F.conv2d(x, weight, layer.bias))


def test_eight_bits_are_the_default():
    assert MinMaxConv2d(4, 2, 1).mac_bits == MinMaxLinear(4, 2).mac_bits == 8


def test_linear_quantizes_weights_and_rows():
    layer = MinMaxLinear(6, 4, bits=4).double()
    x = 20 * double(2, 3, 6)
    x[0, 0, 0] = 2 * LINEAR_CLIP
    quantized = torch.from_numpy(numpy_minmax(x.numpy(), 4, LINEAR_CLIP, -1))
    weight = numpy_weight(layer.weight.detach().numpy(), 4, LINEAR_CLIP)
    expected = F.linear(quantized, torch.from_numpy(weight), layer.bias)
    assert_same(layer(x), expected.detach())
    assert layer.mac_bits == 4


@pytest.mark.parametrize(
    ('layer', 'plain'),
    [(MinMaxConv2d(3, 4, 1), nn.Conv2d(3, 4, 1)), (MinMaxLinear(3, 4), nn.Linear(3, 4))],
)
def test_state_dict_is_that_of_the_float_layer(layer, plain):
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 1, 1) if plain.weight.dim() == 4 else torch.randn(2, 3)
    torch.testing.assert_close(layer(x), plain(x), rtol=0.05, atol=0.05)
    assert not torch.equal(layer(x), plain(x))
