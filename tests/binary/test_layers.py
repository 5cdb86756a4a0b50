"""Binary layers equal torch's layers fed with binarized operands."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmesbnn.binary import (
    BinaryConv2d,
    BinaryLinear,
    HardTanhSign,
    LearnableShift,
    RPReLU,
    RSign,
    build_sign,
    build_weight_binarizer,
)
from mmesbnn.binary.layers import binary_layers
from mmesbnn.binary.prelus import prelu

SIGNS = ['quadratic', 'identity', dict(type='hard_tanh', clip=1.5, zero=0)]
BINARIZERS = [
    'scaled_sign',
    dict(type='scaled_sign', attached=True),
    'centred_sign',
    'temperature',
    'real',
]
CONVS = [
    dict(kernel_size=3),
    dict(kernel_size=3, stride=2, padding=1, bias=True),
    dict(kernel_size=(1, 3), padding=(0, 2), dilation=(1, 2), groups=2, bias=True),
]
MAPS, TOKENS = (2, 3, 4, 5), (2, 5, 3)


def copy_channels(values, channels_last):
    """Return per-channel values in the shape that broadcasts over maps or tokens."""
    return values if channels_last else values.view(1, -1, 1, 1)


def gradients(y, leaves, upstream):
    return torch.autograd.grad(y, leaves, upstream)


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


# convolution and linear ----------------------------------------------------------


@pytest.mark.parametrize('weight_binarizer', BINARIZERS)
@pytest.mark.parametrize('sign', SIGNS)
@pytest.mark.parametrize('options', CONVS)
def test_conv_equals_a_float_conv_of_signs(options, sign, weight_binarizer):
    layer = BinaryConv2d(4, 6, **options, sign=sign, weight_binarizer=weight_binarizer).double()
    plain = nn.Conv2d(4, 6, **{'bias': False, **options}).double()
    signs, binarizer = build_sign(sign), build_weight_binarizer(weight_binarizer)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    effective = binarizer(layer.weight)
    with torch.no_grad():
        plain.weight.copy_(effective)
        if layer.bias is not None:
            plain.bias.copy_(layer.bias)
    y, expected = layer(x), plain(signs(x))
    assert_same(y, expected)
    upstream = torch.randn_like(y)
    got = gradients(y, (x, layer.weight), upstream)
    through_x, through_weight = gradients(expected, (x, plain.weight), upstream)
    assert_same(got[0], through_x)
    assert_same(got[1], gradients(effective, layer.weight, through_weight)[0])


@pytest.mark.parametrize('weight_binarizer', BINARIZERS)
@pytest.mark.parametrize('bias', [False, True])
def test_linear_equals_a_float_linear_of_signs(weight_binarizer, bias):
    layer = BinaryLinear(5, 4, bias, weight_binarizer=weight_binarizer).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = build_weight_binarizer(weight_binarizer)(layer.weight)
    expected = F.linear(build_sign('quadratic')(x), weight, layer.bias)
    y = layer(x)
    assert_same(y, expected)
    upstream, leaves = torch.randn_like(y), (x, *layer.parameters())
    assert_same(gradients(y, leaves, upstream), gradients(expected, leaves, upstream))


@pytest.mark.parametrize('pad_value', [-1, 0, 1])
def test_conv_pads_after_the_sign(pad_value):
    layer = BinaryConv2d(4, 6, 3, padding=2, pad_value=pad_value).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    padded = F.pad(torch.where(x > 0, 1.0, -1.0).double(), (2,) * 4, value=pad_value)
    assert_same(layer(x), F.conv2d(padded, layer.effective_weight()))


def test_without_a_sign_the_input_is_taken_as_it_is():
    x = torch.randn(2, 4, 5, 5)
    conv, linear = BinaryConv2d(4, 6, 3, sign=None), BinaryLinear(5, 3, sign=None)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.effective_weight()))
    torch.testing.assert_close(linear(x), F.linear(x, linear.effective_weight()))


def test_real_weights_and_no_sign_are_the_float_layer():
    options = dict(sign=None, weight_binarizer='real')
    x = torch.randn(2, 4, 5, 5)
    conv = BinaryConv2d(4, 6, 3, **options)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight))
    linear = BinaryLinear(5, 3, **options)
    assert torch.equal(linear(x), F.linear(x, linear.weight))


def test_default_is_the_scaled_sign_of_both_operands():
    x = torch.randn(2, 4, 5, 5)
    x[0, 0, 0, 0] = 0
    layer = BinaryConv2d(4, 6, 3)
    scale = layer.weight.abs().mean((1, 2, 3))
    products = F.conv2d(torch.where(x > 0, 1.0, -1.0), layer.weight.sign())
    torch.testing.assert_close(layer(x), products * scale.view(1, -1, 1, 1))


@pytest.mark.parametrize('training', [False, True])
def test_training_and_evaluation_compute_the_same(training):
    layer = BinaryConv2d(4, 6, 3, weight_binarizer='temperature').train(training)
    x = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        expected = layer(x)
    assert torch.equal(layer(x.requires_grad_()), expected)


@pytest.mark.parametrize('bias', [False, True])
def test_state_dict_is_that_of_the_float_layer(bias):
    conv, plain = BinaryConv2d(4, 6, 3, bias=bias), nn.Conv2d(4, 6, 3, bias=bias)
    conv.load_state_dict(plain.state_dict())
    plain.load_state_dict(conv.state_dict())
    linear, dense = BinaryLinear(4, 6, bias=bias), nn.Linear(4, 6, bias=bias)
    linear.load_state_dict(dense.state_dict())
    dense.load_state_dict(linear.state_dict())


@pytest.mark.parametrize('layer', [BinaryConv2d, BinaryLinear])
def test_a_temperature_is_all_that_the_state_dict_gains(layer):
    sizes = (4, 6, 3) if layer is BinaryConv2d else (4, 6)
    state = layer(*sizes, weight_binarizer='temperature').state_dict()
    assert set(state) == {'weight', 'weight_binarizer.temperature'}


@pytest.mark.parametrize('layer', [BinaryConv2d, BinaryLinear])
def test_latent_clip_is_announced_to_the_hook(layer):
    sizes = (4, 6, 3) if layer is BinaryConv2d else (4, 6)
    assert layer(*sizes).parameter_bounds == {}
    assert layer(*sizes, latent_clip=1.5).parameter_bounds == {'weight': (-1.5, 1.5)}


@pytest.mark.parametrize('latent_clip', [0, -1.5, math.nan])
@pytest.mark.parametrize('layer', [BinaryConv2d, BinaryLinear])
def test_bounds_without_width_are_refused(layer, latent_clip):
    sizes = (4, 6, 3) if layer is BinaryConv2d else (4, 6)
    with pytest.raises(ValueError, match=f'latent_clip={latent_clip!r}'):
        layer(*sizes, latent_clip=latent_clip)


@pytest.mark.parametrize('padding', ['same', 'valid'])
def test_string_padding_is_refused(padding):
    with pytest.raises(ValueError, match=f"padding='{padding}'"):
        BinaryConv2d(4, 6, 3, padding=padding)


@pytest.mark.parametrize('argument', ['sign', 'weight_binarizer'])
@pytest.mark.parametrize('layer', [BinaryConv2d, BinaryLinear])
def test_unknown_signs_and_binarizers_are_refused(layer, argument):
    sizes = (4, 6, 3) if layer is BinaryConv2d else (4, 6)
    with pytest.raises(ValueError, match=f"{argument}='ternary'"):
        layer(*sizes, **{argument: 'ternary'})


def test_checkpoints_of_a_wider_dtype_keep_their_signs():
    layer = BinaryConv2d(3, 8, 3)
    state = {'weight': 1e-9 * torch.randn_like(layer.weight)}
    layer.half().load_state_dict(state)
    assert layer.weight.dtype == torch.float16
    assert torch.equal(layer.weight.sign(), state['weight'].sign().half())


def test_nan_weights_show_in_the_output():
    layer = BinaryConv2d(4, 6, 3)
    with torch.no_grad():
        layer.weight[2, 0, 0, 0] = math.nan
    y = layer(torch.randn(1, 4, 5, 5))
    assert y[:, 2].isnan().all()
    assert y[:, :2].isfinite().all()


# element-wise layers -------------------------------------------------------------


@pytest.mark.parametrize('channels_last', [False, True])
def test_shift_adds_one_bias_per_channel(channels_last):
    layer = LearnableShift(3, channels_last)
    x = torch.randn(TOKENS if channels_last else MAPS)
    assert torch.equal(layer(x), x), 'it starts at 0'
    bias = torch.tensor([1.0, -2.0, 4.0])
    with torch.no_grad():
        layer.bias.copy_(copy_channels(bias, channels_last))
    assert torch.equal(layer(x), x + copy_channels(bias, channels_last))


@pytest.mark.parametrize('sign', SIGNS)
@pytest.mark.parametrize('channels_last', [False, True])
def test_rsign_is_the_sign_of_the_shifted_input(channels_last, sign):
    layer = RSign(3, sign, channels_last).double()
    x = torch.randn(TOKENS if channels_last else MAPS, dtype=torch.float64)
    bias = torch.tensor([0.5, -0.5, 0.1], dtype=torch.float64)
    with torch.no_grad():
        layer.shift.bias.copy_(copy_channels(bias, channels_last))
    shifted = (x + copy_channels(bias, channels_last)).requires_grad_()
    expected = build_sign(sign)(shifted)
    y, upstream = layer(x.requires_grad_()), torch.randn_like(x)
    assert torch.equal(y, expected)
    through_x, through_bias = gradients(y, (x, layer.shift.bias), upstream)
    (surrogate,) = gradients(expected, shifted, upstream)
    assert_same(through_x, surrogate)
    axes = (0, 1) if channels_last else (0, 2, 3)
    assert_same(through_bias.flatten(), surrogate.sum(axes))


def test_rsign_is_quadratic_by_default_and_takes_any_sign():
    x = torch.full((1, 1, 1, 1), 0.25, requires_grad=True)
    RSign(1)(x).backward()
    assert x.grad.item() == 1.5
    assert isinstance(RSign(1, 'hard_tanh').sign, HardTanhSign)
    with pytest.raises(ValueError, match="sign='ternary'"):
        RSign(1, 'ternary')


@pytest.mark.parametrize('channels_last', [False, True])
def test_rprelu_is_a_shifted_prelu(channels_last):
    layer = RPReLU(3, channels_last).double()
    x = torch.randn(TOKENS if channels_last else MAPS, dtype=torch.float64)
    assert_same(layer(x), F.leaky_relu(x, 0.25))
    before, slope, after = torch.tensor(
        [[0.5, -0.5, 0.1], [0.1, -0.3, 2.0], [1.0, 2.0, -4.0]], dtype=torch.float64
    )
    with torch.no_grad():
        layer.shift_in.bias.copy_(copy_channels(before, channels_last))
        layer.slope.copy_(copy_channels(slope, channels_last))
        layer.shift_out.bias.copy_(copy_channels(after, channels_last))
    axis = -1 if channels_last else 1
    moved = (x.movedim(axis, 1) + before.view(1, -1, *[1] * (x.dim() - 2))).requires_grad_()
    activated = F.prelu(moved, slope).movedim(1, axis)
    y, upstream = layer(x.requires_grad_()), torch.randn_like(x)
    assert_same(y, activated + copy_channels(after, channels_last))
    (through_x,) = gradients(y, x, upstream)
    (expected,) = gradients(activated, moved, upstream)
    assert_same(through_x, expected.movedim(1, axis))


def test_prelu_has_the_values_and_gradients_of_torch():
    x = torch.tensor([[-2.0, -0.0, 0.0, 3.0], [math.inf, -1.0, 0.0, 1.0]]).double()
    slope = torch.tensor([0.25, -0.5, 0.1, 2.0]).double()
    ours, theirs = ([z.clone().requires_grad_() for z in (x, slope)] for _ in range(2))
    y, expected = prelu(*ours), F.prelu(*theirs)
    assert torch.equal(y, expected)
    for result in (y, expected):
        result[:, 1:].sum().backward()
    for a, b in zip(ours, theirs):
        assert torch.equal(a.grad, b.grad)
    assert prelu(torch.tensor(math.nan), slope).isnan().all()


def test_rprelu_learns_all_its_parameters():
    layer = RPReLU(2).double()
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    leaves = (layer.shift_in.bias, layer.slope, layer.shift_out.bias)
    y = layer(x)
    upstream = torch.randn_like(y)
    got = gradients(y, leaves, upstream)
    negative = x <= 0
    expected = (
        upstream * torch.where(negative, 0.25, 1.0),
        upstream * torch.where(negative, x, 0.0),
        upstream,
    )
    for one, other in zip(got, expected, strict=True):
        assert_same(one, other.sum((0, 2, 3), keepdim=True))


# what is binary -------------------------------------------------------------------


@pytest.mark.parametrize(
    ('binarizer', 'reason'),
    [
        ('scaled_sign', None),
        ('centred_sign', None),
        ('real', 'real'),
        ('temperature', 'temperature is 1, .*below 1e-07'),
        ('fixed', 'values in output channel'),
    ],
)
def test_a_layer_says_why_its_weight_is_not_binary(binarizer, reason):
    for layer in (
        BinaryConv2d(4, 2, 3, weight_binarizer=binarizer),
        BinaryLinear(4, 2, weight_binarizer=binarizer),
    ):
        why = layer.why_not_binary()
        assert why is None if reason is None else re.search(reason, why)
        with torch.no_grad():
            layer.weight[0].fill_(torch.nan)
        assert ('real' if binarizer == 'real' else 'NaN') in layer.why_not_binary()


@pytest.mark.parametrize('dtype', [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_8_bits_have_no_arithmetic(dtype):
    layer = BinaryLinear(4, 2).to(dtype)  # as enable_layerwise_casting of diffusers stores them
    kind = str(dtype).removeprefix('torch.')
    assert layer.why_not_binary() == f'its weights are {kind}, with which torch cannot compute'


def test_a_hardened_weight_is_binary():
    layer = BinaryLinear(4, 2, weight_binarizer='temperature')
    assert layer.temperature == 1
    layer.weight_binarizer.temperature.fill_(1e-9)
    assert layer.why_not_binary() is None
    layer.weight_binarizer.temperature.fill_(torch.nan)
    assert 'temperature is nan' in layer.why_not_binary()


def test_binary_layers_are_found_under_one_name_or_all():
    shared = BinaryLinear(4, 4)
    model = nn.ModuleDict(dict(a=shared, b=nn.Linear(4, 4), c=shared, d=BinaryConv2d(4, 4, 1)))
    assert list(binary_layers(model)) == ['a', 'd']
    assert list(binary_layers(model, every_name=True)) == ['a', 'c', 'd']


def test_scales_are_those_of_the_binarizer_or_of_a_fixed_weight():
    layer = BinaryLinear(4, 2, weight_binarizer='scaled_sign')
    assert layer.has_scales
    assert not BinaryLinear(4, 2, weight_binarizer='temperature').has_scales
    fixed = BinaryLinear(4, 2, weight_binarizer='fixed')
    assert fixed.has_scales
    fixed.weight.data = signs = torch.ones(2, 4)
    signs[0, 0] = -1
    assert not fixed.has_scales
