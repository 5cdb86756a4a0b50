import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmesbnn.binary import BinaryConv2d, BinaryLinear, Expansion, ShrunkLinear

pytest.importorskip('openvino')

import numpy as np
import openvino as ov

from mmesbnn.deploy.openvino.ops import bits, scale_of
from tests.deploy.graphs import converted, kinds, stored_bits


def signs(x):
    return torch.where(x > 0, 1.0, -1.0).double()


def reference(layer, x):
    """Compute the layer in float64 by its formula."""
    weight = layer.effective_weight().detach().double()
    (top, left), value = layer.padding, float(layer.pad_value)
    x = F.pad(signs(x), (left, left, top, top), value=value)
    return F.conv2d(x, weight, None, layer.stride, 0, layer.dilation, layer.groups)


def check(layer, x):
    conversion, y = converted(layer, x)
    expected = reference(layer, x)
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-6, atol=1e-6)
    (report,) = conversion.layers
    ways = 1 if report.reason is None else 2
    assert report.binary and (ways == 1 or 'does not pad these zeros' in report.reason)
    assert kinds(conversion.graph)['BinaryConvolution'] == ways * layer.groups
    assert 'Convolution' not in kinds(conversion.graph)
    if layer.weight.shape[1] > 1:
        assert 'Select' not in kinds(conversion.graph)  # no map of signs remains
    if layer.weight.shape[1] % 8 == 0:
        assert stored_bits(conversion.graph) == ways * layer.weight.numel()


@pytest.mark.parametrize('pad_value', [-1, 0, 1])
@pytest.mark.parametrize('kernel', [1, 3, 5])
def test_kernels_and_padded_values(kernel, pad_value):
    layer = BinaryConv2d(13, 7, kernel, padding=kernel // 2, pad_value=pad_value)
    check(layer, torch.randn(1, 13, 9, 11))


@pytest.mark.parametrize(
    'options',
    [
        dict(stride=2, padding=1),
        dict(stride=(1, 2), padding=(1, 0)),
        dict(dilation=2, padding=2),
        dict(dilation=2, padding=2, pad_value=-1),
        dict(dilation=6, padding=6, pad_value=-1),
        dict(groups=2, padding=1),
        dict(groups=3, stride=2, padding=1, pad_value=1),
    ],
)
def test_strides_dilation_groups(options):
    check(BinaryConv2d(6, 12, 3, **options), torch.randn(1, 6, 12, 10))


@settings(max_examples=8)
@given(data=st.data())
def test_any_convolution(data):
    groups = data.draw(st.sampled_from([1, 2]))
    kernel = data.draw(st.sampled_from([1, 2, 3, 5]))
    dilation = data.draw(st.sampled_from([1, 2]))
    padding = data.draw(st.integers(0, 2))
    layer = BinaryConv2d(
        groups * data.draw(st.integers(1, 40)),
        groups * data.draw(st.integers(1, 20)),
        kernel,
        data.draw(st.sampled_from([1, 2, 3])),
        padding,
        dilation,
        groups,
        pad_value=data.draw(st.sampled_from([-1, 0, 1])),
    )
    sides = st.integers(dilation * (kernel - 1) + 6, 20)
    size = data.draw(sides), data.draw(sides)
    check(layer, torch.randn(1, layer.in_channels, *size))


def test_no_scale_is_multiplied_where_weights_are_signs():
    layer = BinaryConv2d(8, 8, 3, weight_binarizer='temperature')
    layer.weight_binarizer.temperature.zero_()
    x = torch.randn(1, 8, 6, 6)
    conversion, y = converted(layer, x)
    np.testing.assert_array_equal(y, reference(layer, x).float().numpy())
    assert 'Multiply' not in kinds(conversion.graph)


def test_zero_is_minus_one():
    layer = BinaryConv2d(4, 3, 1)
    x = torch.randn(1, 4, 8, 8).round()
    assert (x == 0).any()
    check(layer, x)


@pytest.mark.parametrize('shape', [(5, 24), (2, 7, 24), (1, 3, 5, 24)])
def test_linear_of_any_number_of_axes(shape):
    layer = BinaryLinear(24, 10)
    x = torch.randn(shape)
    conversion, y = converted(layer, x)
    weight = layer.effective_weight().detach().double()
    expected = F.linear(signs(x), weight)
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-6, atol=1e-6)
    assert kinds(conversion.graph)['BinaryConvolution'] == 1
    assert stored_bits(conversion.graph) == 240
    assert conversion.layers[0].operator == 'binary_linear'
    assert conversion.layers[0].macs == x.numel() * 10


def test_linear_in_groups():
    layer = ShrunkLinear(6, 8, expansion=Expansion(2, 2))
    x = torch.randn(2, 5, 24)
    conversion, y = converted(layer, x)
    expected = layer.double()(x.double()).detach()
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-6, atol=1e-6)
    assert kinds(conversion.graph)['BinaryConvolution'] == 2
    assert 'Select' not in kinds(conversion.graph)
    assert [report.layer for report in conversion.layers] == ['']


def test_bits_are_packed_least_significant_first():
    weight = np.array([1, -1, -1, 1, 1, 1, -1, -1, 1], np.float32).reshape(1, 9, 1, 1)
    node = bits(weight)
    assert node.get_element_type() == ov.Type.u1
    assert node.get_byte_size() == 2
    del weight  # the constant keeps a copy
    assert node.get_data().view(np.uint8).ravel()[:2].tolist() == [0b00111001, 1]


def test_scale_is_the_magnitude_of_every_output():
    weight = np.array([[-0.5, 0.5], [2.0, 2.0]], np.float32)
    np.testing.assert_array_equal(scale_of(weight), [0.5, 2.0])


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize(
    'options',
    [
        dict(kernel_size=5, padding=6),  # wider than OpenVINO's kernel allows
        dict(kernel_size=3, padding=1, stride=3, dilation=2),
        dict(kernel_size=6, padding=1, stride=5),
        dict(kernel_size=3, padding=8, dilation=8),  # rows outside of the map
        dict(kernel_size=9, padding=1, stride=2),
    ],
)
def test_zeros_that_openvino_does_not_pad_rightly(options, groups):
    layer = BinaryConv2d(6, 8, groups=groups, **options)
    x = torch.randn(2, 6, 7, 13)
    conversion, y = converted(layer, x)
    expected = reference(layer, x).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    (report,) = conversion.layers
    assert report.binary and 'two binary convolutions' in report.reason
    assert kinds(conversion.graph)['BinaryConvolution'] == 2 * groups


@pytest.mark.parametrize('pad_value', [-1, 0, 1])
def test_wide_padding_of_signs_that_may_be_zero(pad_value):
    sign = dict(type='hard_tanh', zero=0)
    layer = BinaryConv2d(8, 4, 5, padding=6, pad_value=pad_value, sign=sign)
    x = torch.randn(1, 8, 9, 9).round()
    conversion, y = converted(layer, x)
    with torch.no_grad():
        expected = layer.double()(x.double()).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    (report,) = conversion.layers
    count = 2 if pad_value else 4
    assert report.binary and 'sign(0) is 0' in report.reason
    assert kinds(conversion.graph)['BinaryConvolution'] == count


@pytest.mark.parametrize('dilation', [1, 2, 3])
@pytest.mark.parametrize('stride', [3, 4, 5])
@pytest.mark.parametrize('kernel', [3, 4, 6])
def test_long_strides_without_padding(kernel, stride, dilation):
    layer = BinaryConv2d(8, 4, kernel, stride, dilation=dilation)
    check(layer, torch.randn(1, 8, 19, 24))


def test_padded_layer_that_stays_real():
    class Real(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = BinaryConv2d(
                4, 6, 3, padding=1, groups=2, pad_value=-1, weight_binarizer='real'
            )

        def forward(self, x):
            return self.conv(x)

    model, x = Real(), torch.randn(1, 4, 7, 7)
    conversion, y = converted(model, x)
    expected = reference(model.conv, x)
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-5, atol=1e-5)
    assert conversion.not_binary[0].layer == 'conv'
    assert 'real' in conversion.not_binary[0].reason
