"""Layers in the place of nn.Conv2d and nn.Linear."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmesbnn.binary import ESConv2d, ESLinear, Expansion, scaled_sign_weight
from mmesbnn.binary.operators import BINARY_CONV2D, BINARY_LINEAR
from mmesbnn.binary.shrunk import shrunk_weight
from tests.binary.es_reference import FACTORS, assert_same, double, shrunk_map
from tests.binary.operators import Recorder


@pytest.mark.parametrize('options', [dict(), dict(stride=2, padding=1, dilation=2)])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_es_conv_formula(tau, groups, options):
    layer = ESConv2d(3, 8, 3, bias=True, tau=tau, es_groups=groups, **options)
    layer.double()
    with torch.no_grad():
        layer.bias.copy_(double(8))
        layer.shift.copy_(double(3 * tau * groups))
    x = double(2, 3, 8, 7)
    expanded = torch.cat([x] * (tau * groups), 1) + layer.shift.view(1, -1, 1, 1)
    weight = scaled_sign_weight(layer.conv.weight)
    small = shrunk_map(expanded, weight, tau, groups, 8, **options)
    expected = torch.cat([small] * tau, 1) + layer.bias.view(1, -1, 1, 1)
    assert_same(layer(x), expected)


@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_es_conv_costs_what_the_conv_costs(tau, groups):
    options = dict(stride=2, padding=1)
    plain = nn.Conv2d(4, 8, 3, bias=False, **options)
    layer = ESConv2d(4, 8, 3, es_groups=groups, tau=tau, **options)
    x = torch.randn(2, 4, 7, 6)
    with Recorder() as recorder:
        y = layer(x)
    expected = plain(x)
    assert y.shape == expected.shape
    assert layer.conv.weight.numel() == plain.weight.numel()
    (small,) = recorder.outputs(BINARY_CONV2D)
    multiplications = small.numel() * layer.conv.weight[0].numel()
    assert multiplications == expected.numel() * plain.weight[0].numel()


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_es_linear_formula(tau, groups, bias):
    layer = ESLinear(3, 8, bias, tau=tau, es_groups=groups).double()
    leaf = layer.shift
    with torch.no_grad():
        leaf.copy_(torch.randn_like(leaf))
        if bias:
            layer.bias.copy_(double(8))
    x = double(2, 5, 3)
    expanded = torch.cat([x] * (tau * groups), -1) + leaf
    maps = expanded.transpose(1, 2).unsqueeze(-1)
    weight = scaled_sign_weight(layer.linear.weight)[..., None, None]
    small = shrunk_map(maps, weight, tau, groups, 8)
    expected = torch.cat([small] * tau, 1).squeeze(-1).transpose(1, 2)
    assert_same(layer(x), expected + layer.bias if bias else expected)
    assert layer.linear.weight.numel() == 3 * 8


def test_es_linear_has_a_bias_like_torchs():
    assert ESLinear(3, 8).bias.shape == (8,)
    assert ESConv2d(3, 8, 1).bias is None


@pytest.mark.parametrize('groups', [1, 2])
def test_es_linear_runs_one_binary_product_per_group(groups):
    layer = ESLinear(3, 8, tau=2, es_groups=groups)
    with Recorder() as recorder:
        layer(torch.randn(4, 3))
    products = recorder.outputs(BINARY_LINEAR)
    assert len(products) == groups
    per_product = layer.linear.weight.shape[1]
    assert sum(out.numel() for out in products) * per_product == 4 * 3 * 8


@pytest.mark.parametrize('layer', [ESConv2d(3, 4, 1, tau=2, es_groups=2), ESLinear(3, 4, tau=4)])
def test_thresholds_start_apart_and_where_a_relu_has_values(layer):
    thresholds = layer.shift.detach().view(4, 3)
    expected = torch.tensor([-1.0, -2 / 3, -1 / 3, 0.0]).view(4, 1).expand(4, 3)
    torch.testing.assert_close(thresholds, expected)


@pytest.mark.parametrize('layer', ['conv', 'linear'])
@pytest.mark.parametrize('spread', [-0.1, math.inf, math.nan])
def test_spreads_that_are_no_size_are_refused(layer, spread):
    with pytest.raises(ValueError, match=f'spread={spread}'):
        build(layer, spread=spread)


def build(layer, **options):
    if layer == 'conv':
        return ESConv2d(64, 64, 3, **options)
    return ESLinear(64, 64, **options)


@pytest.mark.parametrize('layer', ['conv', 'linear'])
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(tau=3), 'tau=3 does not divide'),
        (dict(tau=2, es_groups=3), 'groups=3 does not divide'),
        (dict(tau=0), 'tau=0 must be an integer'),
        (dict(es_groups=0), 'es_groups=0 must be an integer'),
        (dict(sign='ternary'), "sign='ternary'"),
        (dict(weight_binarizer='ternary'), "weight_binarizer='ternary'"),
        (dict(latent_clip=-1), 'latent_clip=-1'),
    ],
)
def test_bad_layers_are_refused(layer, options, message):
    with pytest.raises(ValueError, match=message):
        build(layer, **options)


@pytest.mark.parametrize('groups', [2, 32])
def test_grouped_and_depthwise_convolutions_are_refused(groups):
    # the layers for conv_cfg keep them real
    with pytest.raises(ValueError, match=f'groups={groups} must be 1'):
        ESConv2d(32, 32, 3, groups=groups, tau=2)


def test_features_widen_as_often_as_asked_for():
    assert build('conv', tau=8, es_groups=8)(torch.randn(1, 64, 3, 3)).shape == (1, 64, 1, 1)


def test_es_conv_shows_the_attributes_of_a_conv():
    layer = ESConv2d(4, 8, (3, 1), (2, 1), (1, 0), 1, tau=2, es_groups=2)
    plain = nn.Conv2d(4, 8, (3, 1), (2, 1), (1, 0), 1, bias=False)
    names = 'in_channels out_channels kernel_size stride padding dilation groups'
    for name in f'{names} transposed output_padding bias'.split():
        assert getattr(layer, name) == getattr(plain, name), name


def test_mmcv_builds_the_es_conv():
    cnn = pytest.importorskip('mmcv.cnn')
    conv_cfg = dict(type='ESConv2d', tau=2, es_groups=2, spread=0.25)
    module = cnn.ConvModule(
        4, 8, 3, stride=2, padding=1, conv_cfg=conv_cfg, norm_cfg=dict(type='BN')
    )
    weight = module.conv.conv.weight.clone()
    module.init_weights()
    assert torch.equal(module.conv.conv.weight, weight)
    assert isinstance(module.conv, ESConv2d)
    assert module.conv.expansion == Expansion(2, 2)
    assert module.conv.bias is None
    x = torch.randn(2, 4, 7, 6)
    y = module(x)
    assert torch.equal(y, F.relu(module.bn(module.conv(x))))
    assert y.shape == (2, 8, 4, 3)
    y.sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_copies_of_an_input_carry_different_bits():
    layer = ESConv2d(2, 4, 1, tau=4)
    bits = []
    layer.conv.sign.register_forward_hook(lambda *args: bits.append(args[-1]))
    layer(torch.linspace(-1, 1, 100).view(1, 1, 10, 10).expand(1, 2, 10, 10))
    share = (bits[0] > 0).float().mean((2, 3)).view(4, 2)
    assert (share[1:] > share[:-1]).all()


@pytest.mark.parametrize('layer', ['conv', 'linear'])
def test_the_parameters_of_es_show_in_the_representation(layer):
    text = repr(build(layer, tau=2, es_groups=4)).splitlines()[1]
    assert text.strip() == '64, 64, tau=2, es_groups=4, copies=16'


@pytest.mark.parametrize('shape', [(1, 128, 8, 8), (64, 8), (1, 1, 64)])
def test_maps_of_another_width_are_refused(shape):
    message = f'(N, 64, H, W), not float32 of shape {shape}'
    with pytest.raises(ValueError, match=re.escape(message)):
        build('conv', tau=2)(torch.randn(shape))


@pytest.mark.parametrize('shape', [(1, 128), (64, 1), ()])
def test_tokens_of_another_width_are_refused(shape):
    with pytest.raises(ValueError, match=r'ESLinear.*\(\.\.\., 64\)'):
        build('linear', tau=2)(torch.randn(shape))


@pytest.mark.parametrize('tau', [1, 2])
def test_a_float_convolution_becomes_the_latent_weight(tau):
    net = nn.Sequential(ESConv2d(4, 6, 3, tau=tau), nn.BatchNorm2d(6))
    own = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)).state_dict()
    before = dict(own)
    found = net.load_state_dict(own, strict=False)
    assert found.missing_keys == ['0.shift'] and not found.unexpected_keys
    assert torch.equal(net[0].conv.weight, shrunk_weight(own['0.weight'], tau))
    assert own.keys() == before.keys()  # the caller's dict is as it was


def test_a_float_linear_layer_becomes_the_latent_weight():
    layer, own = ESLinear(4, 6, True, tau=2), nn.Linear(4, 6)
    assert layer.load_state_dict(own.state_dict(), strict=False).missing_keys == ['shift']
    assert torch.equal(layer.linear.weight, shrunk_weight(own.weight, 2))
    assert torch.equal(layer.bias, own.bias)


def test_a_float_weight_of_another_shape_is_refused():
    with pytest.raises(RuntimeError, match='size mismatch'):
        ESConv2d(4, 6, 3).load_state_dict(nn.Conv2d(4, 8, 3).state_dict(), strict=False)
    layer, other = ESConv2d(4, 6, 3, tau=2), nn.Conv2d(4, 5, 3, bias=False).state_dict()
    assert layer.load_state_dict(other, strict=False).unexpected_keys == ['weight']


def test_vmap_runs_es_convolutions_of_any_strides():
    conv = ESConv2d(4, 4, 3, tau=2)
    x = torch.randn(2, 4, 3, 5, 5)
    expected = torch.stack([conv(x[:, :, index]) for index in range(3)])
    torch.testing.assert_close(torch.func.vmap(conv, in_dims=2)(x), expected)


def test_vmap_runs_an_ensemble_of_es_convolutions():
    convs = [ESConv2d(4, 4, 3, tau=2) for _ in range(3)]
    params, buffers = torch.func.stack_module_state(convs)
    x = torch.randn(2, 4, 5, 5)

    def call(params, buffers):
        return torch.func.functional_call(convs[0], (params, buffers), (x,))

    got = torch.func.vmap(call)(params, buffers)
    torch.testing.assert_close(got, torch.stack([conv(x) for conv in convs]))
