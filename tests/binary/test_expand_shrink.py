"""ES arithmetic, and its layers against the paper's figures written with loops."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn import ConvModule
from torch import nn
from torch.optim.swa_utils import update_bn

from mmesbnn.binary import (
    BinaryConv2d,
    BinaryLinear,
    DropInESConv2d,
    DropInESLinear,
    ESConv2d,
    ESLinear,
    Expansion,
    TiledBatchNorm2d,
    normalize_tiled,
    scaled_sign_weight,
    tile,
)
from mmesbnn.binary.expand_shrink import spread_thresholds, tiled_affine
from mmesbnn.binary.functional import BINARY_CONV2D, BINARY_LINEAR
from tests.binary.operators import Recorder

FACTORS = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (2, 4)]


def double(*shape):
    return torch.randn(shape, dtype=torch.float64)


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def signs_of(x):
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


def output_and_gradients(layer, x, upstream=None):
    x = x.clone().requires_grad_()
    y = layer(x)
    upstream = torch.ones_like(y).cumsum(1) if upstream is None else upstream
    return y, torch.autograd.grad(y, (x, *layer.parameters()), upstream)


# arithmetic ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('tau', 'groups', 'factor', 'copies'),
    [(1, 1, 1, 1), (2, 1, 2, 4), (1, 3, 3, 3), (2, 3, 6, 12), (4, 2, 8, 32)],
)
def test_expansion_arithmetic(tau, groups, factor, copies):
    expansion = Expansion(tau, groups)
    assert expansion.factor == factor
    assert expansion.copies == copies
    assert expansion.width(24) == 24 * factor
    assert expansion.kernels(24) == 24 // tau
    assert expansion.kernels(24) * copies == expansion.width(24)


def test_expansion_is_none_by_default_and_compares_by_value():
    assert Expansion() == Expansion(1, 1) != Expansion(2)
    assert Expansion(2, 3) == Expansion(tau=2, groups=3)


@pytest.mark.parametrize('value', [0, -1, 1.0, 2.5, True, '2', None])
@pytest.mark.parametrize('name', ['tau', 'groups'])
def test_factors_that_are_no_positive_integers_are_refused(name, value):
    message = f'{name}={value!r} must be an integer >= 1'
    with pytest.raises(ValueError, match=re.escape(message)):
        Expansion(**{name: value})


@pytest.mark.parametrize(
    ('tau', 'groups', 'message'),
    [
        (3, 1, 'tau=3 does not divide out_channels=64'),
        (128, 1, 'tau=128 does not divide out_channels=64'),
        (2, 3, 'groups=3 does not divide out_channels / tau = 64 / 2 = 32'),
        (2, 64, 'groups=64 does not divide out_channels / tau = 64 / 2 = 32'),
    ],
)
def test_factors_that_do_not_divide_are_refused_at_construction(tau, groups, message):
    with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
        Expansion(tau, groups).kernels(64)
    with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
        ESConv2d(8, 64, 3, tau=tau, groups=groups)
    with pytest.raises(ValueError, match=re.escape(message.replace('channels', 'features'))):
        ESLinear(8, 64, tau=tau, groups=groups)


def test_error_messages_take_the_name_they_are_given():
    with pytest.raises(ValueError, match='tau=2 does not divide width=5'):
        Expansion(2).kernels(5, 'width')
    with pytest.raises(ValueError, match='does not divide width=0'):
        Expansion(2).kernels(0, 'width')


@given(st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_tile_repeats_the_whole_axis(copies, shape, data):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = torch.randn(shape)
    assert torch.equal(tile(x, copies, dim), torch.cat([x] * copies, dim))


def test_tile_order_is_copy_by_copy():
    x = torch.tensor([1, 2, 3]).view(1, 3, 1, 1)
    assert tile(x, 2).flatten().tolist() == [1, 2, 3, 1, 2, 3]
    assert tile(x, 1) is x


# convolution ---------------------------------------------------------------------


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
    layer = ESConv2d(inputs, out_channels, groups=groups, tau=tau, **options)
    width = inputs * tau * groups
    assert layer.weight.shape == (out_channels // tau, inputs * tau, kernel, kernel)
    assert layer.weight.numel() == plain.weight.numel()
    with Recorder() as recorder:
        y = layer(torch.randn(1, width, 5, 4))
    expected = plain(torch.randn(1, inputs, 5, 4))
    assert y.shape == (1, out_channels * tau * groups, *expected.shape[2:])
    (small,) = recorder.outputs(BINARY_CONV2D)
    multiplications = small.numel() * layer.weight[0].numel()
    assert multiplications == expected.numel() * plain.weight[0].numel()


def figure_c(x, weight, tau, groups, out_channels, **conv):
    """The paper's figure (c), group by group."""
    depth, kernels = x.shape[1] // groups, out_channels // (tau * groups)
    outputs = []
    for j in range(groups):
        inputs = signs_of(x[:, j * depth : (j + 1) * depth])
        outputs.append(F.conv2d(inputs, weight[j * kernels : (j + 1) * kernels], **conv))
    shrunk = torch.cat(outputs, 1)
    assert shrunk.shape[1] == out_channels // tau
    return torch.cat([shrunk] * (tau * tau * groups), 1)


@pytest.mark.parametrize('options', [dict(), dict(stride=2, padding=1, dilation=2)])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_conv_is_figure_c(tau, groups, options):
    layer = ESConv2d(3, 8, 3, groups=groups, tau=tau, **options).double()
    x = double(2, 3 * tau * groups, 8, 7)
    weight = layer.weight.detach()
    weight = weight.abs().mean((1, 2, 3), keepdim=True) * weight.sign()
    assert_same(layer(x), figure_c(x, weight, tau, groups, 8, **options))


@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_untiled_conv_is_the_small_map(tau, groups):
    whole = ESConv2d(3, 8, 3, groups=groups, tau=tau, bias=True)
    small = ESConv2d(3, 8, 3, groups=groups, tau=tau, bias=True, tiled=False)
    small.load_state_dict(whole.state_dict())
    x = torch.randn(2, 3 * tau * groups, 5, 5)
    assert small(x).shape == (2, 8 // tau, 3, 3)
    assert torch.equal(torch.cat([small(x)] * (tau * tau * groups), 1), whole(x))


@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_each_group_of_the_next_layer_sees_complete_copies(tau, groups):
    layer = ESConv2d(3, 8, 3, groups=groups, tau=tau)
    small = ESConv2d(3, 8, 3, groups=groups, tau=tau, tiled=False)
    small.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3 * tau * groups, 5, 5)
    following = ESConv2d(8, 8, 3, groups=groups, tau=tau)
    inputs = layer(x).split(following.weight.shape[1], 1)
    assert len(inputs) == groups
    for part in inputs:
        assert torch.equal(part, torch.cat([small(x)] * tau**2, 1))


@pytest.mark.parametrize('tiled', [False, True])
def test_conv_without_expansion_is_the_binary_conv_bit_for_bit(tiled):
    options = dict(stride=2, padding=1, bias=True, pad_value=-1, latent_clip=1.5)
    plain = BinaryConv2d(4, 6, 3, **options)
    layer = ESConv2d(4, 6, 3, tau=1, groups=1, tiled=tiled, **options)
    layer.load_state_dict(plain.state_dict())
    assert layer.parameter_bounds == plain.parameter_bounds
    x = torch.randn(2, 4, 7, 7)
    (y, grads), (expected, other) = (output_and_gradients(module, x) for module in (layer, plain))
    assert torch.equal(y, expected)
    assert all(map(torch.equal, grads, other))


def test_copies_of_an_output_add_up_in_the_gradient():
    layer = ESConv2d(2, 4, 1, tau=2, tiled=False)
    x = torch.randn(1, 4, 3, 3)
    tiled = ESConv2d(2, 4, 1, tau=2)
    tiled.load_state_dict(layer.state_dict())
    upstream = torch.randn(1, 8, 3, 3)
    _, got = output_and_gradients(tiled, x, upstream)
    _, expected = output_and_gradients(layer, x, upstream.view(1, 4, 2, 3, 3).sum(1))
    torch.testing.assert_close(got, expected)


# linear --------------------------------------------------------------------------


@pytest.mark.parametrize('tiled', [False, True])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_linear_is_a_pointwise_conv_of_tokens(tau, groups, tiled):
    options = dict(bias=True, tau=tau, groups=groups, tiled=tiled)
    linear = ESLinear(3, 8, **options).double()
    conv = ESConv2d(3, 8, 1, **options).double()
    assert linear.weight.numel() == 3 * 8
    with torch.no_grad():
        conv.weight.copy_(linear.weight[..., None, None])
        conv.bias.copy_(linear.bias)
    tokens = double(2, 5, 3 * tau * groups)
    maps = tokens.transpose(1, 2).unsqueeze(-1)
    assert_same(linear(tokens), conv(maps).squeeze(-1).transpose(1, 2))


def test_linear_without_expansion_is_the_binary_linear_bit_for_bit():
    plain, layer = BinaryLinear(5, 4, bias=True), ESLinear(5, 4, bias=True)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 5)
    (y, grads), (expected, other) = (output_and_gradients(module, x) for module in (layer, plain))
    assert torch.equal(y, expected)
    assert all(map(torch.equal, grads, other))


# batch norm ----------------------------------------------------------------------


def tiled_and_plain_norm(features, copies, **options):
    """A tiled norm and torch's, in the same state, every copy in one of its own."""
    plain = nn.BatchNorm2d(features, **options).double()
    with torch.no_grad():
        plain.weight.uniform_(-2, 2)
        plain.bias.uniform_(-2, 2)
        plain.running_mean.uniform_(-1, 1)
        plain.running_var.uniform_(0.5, 2)
    tiled = TiledBatchNorm2d(features, copies, **options).double()
    tiled.load_state_dict(plain.state_dict())
    return tiled, plain


@pytest.mark.parametrize('options', [dict(), dict(eps=0.1, momentum=0.3)])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('copies', [1, 2, 6])
def test_tiled_norm_is_torchs_norm_of_the_tiled_map(copies, training, options):
    tiled, plain = tiled_and_plain_norm(6, copies, **options)
    tiled.train(training)
    plain.train(training)
    for _ in range(2):
        x = (3 + 2 * double(4, 6 // copies, 3, 2)).requires_grad_()
        y, expected = tiled(x), plain(torch.cat([x] * copies, 1))
        assert_same(y, expected)
        upstream = torch.randn_like(y)
        got = torch.autograd.grad(y, (x, *tiled.parameters()), upstream)
        other = torch.autograd.grad(expected, (x, *plain.parameters()), upstream)
        assert_same(got, other)
    assert_same(tiled.state_dict(), plain.state_dict())
    assert tiled.num_batches_tracked == 2 * training


@pytest.mark.parametrize('copies', [1, 3])
def test_tiled_norm_exchanges_state_dicts_with_torchs(copies):
    tiled, plain = tiled_and_plain_norm(6, copies)
    tiled(double(4, 6 // copies, 3, 2))
    plain.load_state_dict(tiled.state_dict())
    assert plain.state_dict().keys() == tiled.state_dict().keys()
    means = plain.running_mean.view(copies, -1)
    assert means.unique(dim=0).shape[0] == copies, 'copies lost their own statistics'


@pytest.mark.parametrize('training', [True, False])
def test_norm_of_one_copy_is_torchs_bit_for_bit(training):
    tiled, plain = (TiledBatchNorm2d(5).train(training), nn.BatchNorm2d(5).train(training))
    x = torch.randn(3, 5, 4, 4)
    (y, grads), (expected, other) = (output_and_gradients(module, x) for module in (tiled, plain))
    assert torch.equal(y, expected)
    assert all(map(torch.equal, grads, other))
    for name, buffer in tiled.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('copies', [1, 4])
def test_tiled_norm_of_a_low_precision_map_keeps_its_dtype(copies, training):
    tiled = TiledBatchNorm2d(8, copies).train(training)
    plain = nn.BatchNorm2d(8).train(training)
    x = 3 + torch.randn(4, 8 // copies, 5, 5).bfloat16()
    y, expected = tiled(x), plain(torch.cat([x] * copies, 1))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2**-6, atol=2**-6)
    assert tiled.running_mean.dtype == torch.float32
    torch.testing.assert_close(tiled.state_dict(), plain.state_dict())


def test_gradcheck_of_the_tiled_norm():
    norm = TiledBatchNorm2d(4, 2).double()
    assert torch.autograd.gradcheck(norm, double(3, 2, 2, 2).requires_grad_())


def test_copies_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r'copies=4 .*num_features=6'):
        TiledBatchNorm2d(6, 4)


@pytest.mark.parametrize('copies', [0, -1])
def test_there_is_at_least_one_copy(copies):
    with pytest.raises(ValueError, match=f'copies={copies} must be an integer >= 1'):
        TiledBatchNorm2d(6, copies)


@pytest.mark.parametrize('copies', [1, 2])
def test_a_cumulative_average_is_the_mean_of_all_batches(copies):
    norm = TiledBatchNorm2d(6, copies, momentum=None)
    reference = nn.BatchNorm2d(6, momentum=None)
    for _ in range(3):
        x = torch.randn(4, 6 // copies, 3, 3)
        norm(x)
        reference(tile(x, copies))
    for name in ('running_mean', 'running_var', 'num_batches_tracked'):
        torch.testing.assert_close(getattr(norm, name), getattr(reference, name))


@pytest.mark.parametrize('copies', [1, 2])
def test_torchs_update_bn_gives_the_mean_of_all_batches(copies):
    model = nn.Sequential(TiledBatchNorm2d(6, copies))
    reference = nn.Sequential(nn.BatchNorm2d(6))
    batches = [torch.randn(4, 6 // copies, 3, 3) for _ in range(3)]
    update_bn(batches, model)
    update_bn([tile(x, copies) for x in batches], reference)
    assert model[0].momentum == 0.1
    torch.testing.assert_close(model[0].running_mean, reference[0].running_mean)
    torch.testing.assert_close(model[0].running_var, reference[0].running_var)


@pytest.mark.parametrize('copies', [1, 2, 4])
@pytest.mark.parametrize('training', [False, True])
def test_channels_last_in_channels_last_out(copies, training):
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    layers = (
        TiledBatchNorm2d(8 * copies, copies),
        ESConv2d(8, 8, 3, padding=1),
        DropInESConv2d(8, 8, 3, padding=1, tau=copies),
    )
    for layer in layers:
        y = layer.train(training)(x)
        assert y.is_contiguous(memory_format=torch.channels_last), layer
        torch.testing.assert_close(y, layer(x.contiguous()))
    assert tile(x, copies).is_contiguous(memory_format=torch.channels_last)


def test_inputs_that_do_not_fit_the_norm_are_refused():
    norm = TiledBatchNorm2d(6, 3)
    with pytest.raises(ValueError, match=r'\(N, 2, H, W\), not float32 of shape \(2, 6'):
        norm(torch.randn(2, 6, 4, 4))
    with pytest.raises(ValueError, match=r'shape \(N, 2, H, W\)'):
        norm(torch.randn(3, 2, 1))
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        norm(torch.randn(1, 2, 1, 1))


def test_copies_and_sync_show_in_the_representation():
    assert 'copies=3, sync=True' in repr(TiledBatchNorm2d(6, 3, sync=True))


def test_synced_norm_of_a_single_value_stays_finite(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / 'store'), 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        norm = TiledBatchNorm2d(4, 2, sync=True)
        y = norm(torch.full((1, 2, 1, 1), 3.0))
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(y.flatten(), norm.bias)
    torch.testing.assert_close(norm.running_mean, torch.full((4,), 0.3))
    torch.testing.assert_close(norm.running_var, torch.full((4,), 0.9))


@pytest.mark.parametrize('training', [True, False])
def test_sync_without_processes_is_the_plain_norm(training):
    tiled, synced = (TiledBatchNorm2d(6, 3, sync=sync) for sync in (False, True))
    x = torch.randn(4, 2, 3, 3)
    assert torch.equal(synced.train(training)(x), tiled.train(training)(x))
    torch.testing.assert_close(synced.state_dict(), tiled.state_dict(), rtol=0, atol=0)


def test_tiled_affine_is_an_affine_of_the_tiled_map():
    x, scale, shift = double(2, 3, 4, 5), double(12), double(12)
    expected = torch.cat([x] * 4, 1) * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    assert_same(tiled_affine(x, scale, shift), expected)


@pytest.mark.parametrize('kind', [TiledBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize('training', [True, False])
def test_normalize_tiled_takes_any_norm(kind, training):
    tiled, plain = tiled_and_plain_norm(6, 3)
    norm = {TiledBatchNorm2d: tiled, nn.BatchNorm2d: plain}.get(kind)
    if norm is None:
        norm = nn.SyncBatchNorm.convert_sync_batchnorm(tiled)
        assert type(norm) is nn.SyncBatchNorm
        assert norm.num_features == 6
    norm.train(training)
    reference = nn.BatchNorm2d(6).double()
    reference.load_state_dict(plain.state_dict())
    reference.train(training)
    x = double(4, 2, 3, 3)
    assert_same(normalize_tiled(x, norm, 3), reference(torch.cat([x] * 3, 1)))
    assert_same(norm.state_dict(), reference.state_dict())


# drop-in layers ------------------------------------------------------------------


@pytest.mark.parametrize('options', [dict(), dict(stride=2, padding=1, dilation=2)])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_drop_in_conv_formula(tau, groups, options):
    layer = DropInESConv2d(3, 8, 3, bias=True, tau=tau, es_groups=groups, **options)
    layer.double()
    with torch.no_grad():
        layer.bias.copy_(double(8))
        layer.shift.copy_(double(3 * tau * groups))
    x = double(2, 3, 8, 7)
    expanded = torch.cat([x] * (tau * groups), 1) + layer.shift.view(1, -1, 1, 1)
    weight = scaled_sign_weight(layer.conv.weight)
    small = figure_c(expanded, weight, tau, groups, 8, **options)[:, : 8 // tau]
    expected = torch.cat([small] * tau, 1) + layer.bias.view(1, -1, 1, 1)
    assert_same(layer(x), expected)


@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_drop_in_conv_costs_what_the_conv_costs(tau, groups):
    options = dict(stride=2, padding=1)
    plain = nn.Conv2d(4, 8, 3, bias=False, **options)
    layer = DropInESConv2d(4, 8, 3, groups=groups, tau=tau, **options)
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
def test_drop_in_linear_formula(tau, groups, bias):
    layer = DropInESLinear(3, 8, bias, tau=tau, groups=groups).double()
    leaf = layer.shift
    with torch.no_grad():
        leaf.copy_(torch.randn_like(leaf))
        if bias:
            layer.bias.copy_(double(8))
    x = double(2, 5, 3)
    expanded = torch.cat([x] * (tau * groups), -1) + leaf
    maps = expanded.transpose(1, 2).unsqueeze(-1)
    weight = scaled_sign_weight(layer.linear.weight)[..., None, None]
    small = figure_c(maps, weight, tau, groups, 8)[:, : 8 // tau]
    expected = torch.cat([small] * tau, 1).squeeze(-1).transpose(1, 2)
    assert_same(layer(x), expected + layer.bias if bias else expected)
    assert layer.linear.weight.numel() == 3 * 8


def test_drop_in_linear_has_a_bias_like_torchs():
    assert DropInESLinear(3, 8).bias.shape == (8,)
    assert DropInESConv2d(3, 8, 1).bias is None


@pytest.mark.parametrize('groups', [1, 2])
def test_drop_in_linear_runs_one_binary_product_per_group(groups):
    layer = DropInESLinear(3, 8, tau=2, groups=groups)
    with Recorder() as recorder:
        layer(torch.randn(4, 3))
    products = recorder.outputs(BINARY_LINEAR)
    assert len(products) == groups
    per_product = layer.linear.weight.shape[1]
    assert sum(out.numel() for out in products) * per_product == 4 * 3 * 8


@pytest.mark.parametrize(
    'layer', [DropInESConv2d(3, 4, 1, tau=2, es_groups=2), DropInESLinear(3, 4, tau=4)]
)
def test_thresholds_start_apart(layer):
    thresholds = layer.shift.detach().view(4, 3)
    expected = torch.tensor([-0.5, -1 / 6, 1 / 6, 0.5]).view(4, 1).expand(4, 3)
    torch.testing.assert_close(thresholds, expected)


def test_spread_thresholds_formula():
    assert spread_thresholds(2, 3, 4.0).tolist() == [-4, -4, 0, 0, 4, 4]
    assert spread_thresholds(3, 1, 4.0).tolist() == [0, 0, 0]
    assert spread_thresholds(2, 2, 0.0).tolist() == [0, 0, 0, 0]
    layer = DropInESConv2d(1, 4, 1, tau=2, spread=0.25)
    assert layer.shift.tolist() == [-0.25, 0.25]


@pytest.mark.parametrize('layer', ['conv', 'linear'])
@pytest.mark.parametrize('spread', [-0.1, math.inf, math.nan])
def test_spreads_that_are_no_size_are_refused(layer, spread):
    with pytest.raises(ValueError, match=f'spread={spread}'):
        build_drop_in(layer, spread=spread)


def build_drop_in(layer, **options):
    if layer == 'conv':
        return DropInESConv2d(64, 64, 3, **options)
    return DropInESLinear(64, 64, **options)


@pytest.mark.parametrize('layer', ['conv', 'linear'])
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(tau=3), 'tau=3 does not divide'),
        (dict(tau=2, groups=3), 'groups=3 does not divide'),
        (dict(tau=0), 'tau=0 must be an integer'),
        (dict(groups=32), r'groups=32.*at most 16 times.*depthwise'),
        (dict(tau=8, groups=4), r'tau=8, groups=4.*64 inputs at most 16 times'),
        (dict(sign='ternary'), "sign='ternary'"),
        (dict(weight_binarizer='ternary'), "weight_binarizer='ternary'"),
        (dict(latent_clip=-1), 'latent_clip=-1'),
    ],
)
def test_bad_drop_in_layers_are_refused(layer, options, message):
    with pytest.raises(ValueError, match=message):
        build_drop_in(layer, **options)


def test_sixteen_fold_expansion_is_still_allowed():
    assert build_drop_in('conv', tau=4, groups=4).conv.weight.shape[1] == 64 * 4


def test_two_kinds_of_groups_are_refused():
    with pytest.raises(ValueError, match='groups=2, es_groups=4'):
        DropInESConv2d(4, 8, 3, groups=2, es_groups=4)
    layer = DropInESConv2d(4, 8, 3, groups=1, es_groups=4)
    assert layer.expansion == Expansion(1, 4)


def test_drop_in_conv_shows_the_attributes_of_a_conv():
    layer = DropInESConv2d(4, 8, (3, 1), (2, 1), (1, 0), 1, tau=2, es_groups=2)
    plain = nn.Conv2d(4, 8, (3, 1), (2, 1), (1, 0), 1, groups=2, bias=False)
    names = 'in_channels out_channels kernel_size stride padding dilation groups'
    for name in f'{names} transposed output_padding bias'.split():
        assert getattr(layer, name) == getattr(plain, name), name


def test_mmcv_builds_the_drop_in_conv():
    conv_cfg = dict(type='ESConv2d', tau=2, es_groups=2, spread=0.25)
    module = ConvModule(4, 8, 3, stride=2, padding=1, conv_cfg=conv_cfg, norm_cfg=dict(type='BN'))
    weight = module.conv.conv.weight.clone()
    module.init_weights()
    assert torch.equal(module.conv.conv.weight, weight)
    assert isinstance(module.conv, DropInESConv2d)
    assert module.conv.expansion == Expansion(2, 2)
    assert module.conv.bias is None
    x = torch.randn(2, 4, 7, 6)
    y = module(x)
    assert torch.equal(y, F.relu(module.bn(module.conv(x))))
    assert y.shape == (2, 8, 4, 3)
    y.sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_depthwise_convs_are_refused():
    # by the layer; what is registered for conv_cfg keeps them real
    with pytest.raises(ValueError, match='depthwise'):
        DropInESConv2d(32, 32, 3, groups=32, tau=2)


def test_copies_of_an_input_carry_different_bits():
    layer = DropInESConv2d(2, 4, 1, tau=4)
    bits = []
    layer.conv.sign.register_forward_hook(lambda *args: bits.append(args[-1]))
    layer(torch.linspace(-1, 1, 100).view(1, 1, 10, 10).expand(1, 2, 10, 10))
    share = (bits[0] > 0).float().mean((2, 3)).view(4, 2)
    assert (share[1:] > share[:-1]).all()
