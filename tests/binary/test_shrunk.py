"""Shrunk layers equal the paper's figures."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmesbnn.binary import BinaryConv2d, BinaryLinear, Expansion, ShrunkConv2d, ShrunkLinear, tile
from mmesbnn.binary.operators import BINARY_CONV2D
from tests.binary.es_reference import FACTORS, assert_same, double, output_and_gradients, shrunk_map
from tests.binary.operators import Recorder


@settings(max_examples=20)
@given(
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2]),
)
def test_weights_and_multiplications_are_those_of_the_layer_replaced(
    tau, groups, inputs, outputs, kernel, stride
):
    out_channels = outputs * tau * groups
    options = dict(kernel_size=kernel, stride=stride, padding=kernel // 2)
    plain = nn.Conv2d(inputs, out_channels, bias=False, **options)
    layer = ShrunkConv2d(inputs, out_channels, expansion=Expansion(tau, groups), **options)
    width = inputs * tau * groups
    assert layer.weight.shape == (out_channels // tau, inputs * tau, kernel, kernel)
    assert layer.weight.numel() == plain.weight.numel()
    with Recorder() as recorder:
        y = layer(torch.randn(1, width, 5, 4))
    expected = plain(torch.randn(1, inputs, 5, 4))
    assert y.shape == (1, out_channels // tau, *expected.shape[2:])
    (small,) = recorder.outputs(BINARY_CONV2D)
    multiplications = small.numel() * layer.weight[0].numel()
    assert multiplications == expected.numel() * plain.weight[0].numel()


@pytest.mark.parametrize('options', [dict(), dict(stride=2, padding=1, dilation=2)])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_conv_is_figure_c(tau, groups, options):
    layer = ShrunkConv2d(3, 8, 3, expansion=Expansion(tau, groups), **options).double()
    x = double(2, 3 * tau * groups, 8, 7)
    weight = layer.weight.detach()
    weight = weight.abs().mean((1, 2, 3), keepdim=True) * weight.sign()
    assert_same(layer(x), shrunk_map(x, weight, tau, groups, 8, **options))


@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_each_group_of_the_next_layer_sees_complete_copies(tau, groups):
    expansion = Expansion(tau, groups)
    layer = ShrunkConv2d(3, 8, 3, bias=True, expansion=expansion)
    small = layer(torch.randn(2, 3 * tau * groups, 5, 5))
    assert small.shape == (2, 8 // tau, 3, 3)
    following = ShrunkConv2d(8, 8, 3, expansion=expansion)
    inputs = tile(small, expansion.copies).split(following.weight.shape[1], 1)
    assert len(inputs) == groups
    for part in inputs:
        assert torch.equal(part, torch.cat([small] * tau**2, 1))


def test_conv_without_expansion_is_the_binary_conv_bit_for_bit():
    options = dict(stride=2, padding=1, bias=True, pad_value=-1, latent_clip=1.5)
    plain = BinaryConv2d(4, 6, 3, **options)
    layer = ShrunkConv2d(4, 6, 3, expansion=Expansion(), **options)
    layer.load_state_dict(plain.state_dict())
    assert layer.parameter_bounds == plain.parameter_bounds
    x = torch.randn(2, 4, 7, 7)
    (y, grads), (expected, other) = (output_and_gradients(module, x) for module in (layer, plain))
    assert torch.equal(y, expected)
    assert all(map(torch.equal, grads, other))


# linear --------------------------------------------------------------------------


@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_linear_is_a_pointwise_conv_of_tokens(tau, groups):
    options = dict(bias=True, expansion=Expansion(tau, groups))
    linear = ShrunkLinear(3, 8, **options).double()
    conv = ShrunkConv2d(3, 8, 1, **options).double()
    assert linear.weight.numel() == 3 * 8
    with torch.no_grad():
        conv.weight.copy_(linear.weight[..., None, None])
        conv.bias.copy_(linear.bias)
    tokens = double(2, 5, 3 * tau * groups)
    maps = tokens.transpose(1, 2).unsqueeze(-1)
    assert_same(linear(tokens), conv(maps).squeeze(-1).transpose(1, 2))


def test_linear_without_expansion_is_the_binary_linear_bit_for_bit():
    plain, layer = (
        BinaryLinear(5, 4, bias=True),
        ShrunkLinear(5, 4, bias=True, expansion=Expansion()),
    )
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 5)
    (y, grads), (expected, other) = (output_and_gradients(module, x) for module in (layer, plain))
    assert torch.equal(y, expected)
    assert all(map(torch.equal, grads, other))


def test_the_parameters_of_es_show_in_the_representation():
    expansion = Expansion(2, 4)
    for layer in (
        ShrunkConv2d(3, 8, 1, expansion=expansion),
        ShrunkLinear(3, 8, expansion=expansion),
    ):
        assert repr(layer).count('tau=2, es_groups=4, copies=16') == 1


@pytest.mark.parametrize('shape', [(2, 16, 4, 4), (2, 4, 4, 4), (4,)])
def test_maps_of_another_width_are_refused(shape):
    layer = ShrunkConv2d(4, 8, 3, expansion=Expansion(2, 1))
    message = f'(N, 8, H, W), not float32 of shape {shape}'
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(torch.randn(shape))


@pytest.mark.parametrize('shape', [(2, 8), (2, 5, 4), ()])
def test_tokens_of_another_width_are_refused(shape):
    layer = ShrunkLinear(4, 8, expansion=Expansion(2, 2))
    with pytest.raises(ValueError, match=r'ShrunkLinear.*\(\.\.\., 16\)'):
        layer(torch.randn(shape))
