"""``binarize`` replaces the right layers, and the new layers compute the right values."""

import copy
import io
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mmesbnn
from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import ESConv2d, binarize
from mmesbnn.binary.replaceable import Reason
from mmesbnn.binary.shrunk import shrunk_weight
from tests.binary.float_networks import Net, signs_of, small_net
from tests.defaults import torch_default, with_other_defaults


@pytest.mark.parametrize('bias', [False, True])
def test_without_expansion_the_float_weights_become_latent_ones(bias):
    options = dict(stride=2, padding=(1, 0), dilation=(1, 2), bias=bias)
    conv = nn.Conv2d(8, 8, (3, 2), **options)
    net = Net(conv).double()
    x = torch.randn(2, 3, 9, 8).double()
    features = net.first(x)
    mmesbnn.binarize(net)
    scale = conv.weight.abs().mean((1, 2, 3), keepdim=True)
    expected = F.conv2d(
        signs_of(features), scale * signs_of(conv.weight), conv.bias, 2, (1, 0), (1, 2)
    )
    torch.testing.assert_close(net.middle(features), expected, rtol=1e-12, atol=1e-12)
    (layer,) = net.middle
    assert torch.equal(layer.conv.weight, conv.weight)
    assert (layer.bias is None) == (not bias)


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('tau', [1, 2, 4])
def test_expanded_layers_apply_a_kernel_to_every_copy_of_the_input(tau, groups):
    conv = nn.Conv2d(8, 16, 3, padding=1)
    net = Net(conv, nn.Conv2d(16, 8, 1)).double()
    x = torch.randn(2, 8, 5, 5).double()
    binarize(net, tau=tau, es_groups=groups, spread=0.75)
    shifts = torch.linspace(-1.5, 0.0, tau * groups) if tau * groups > 1 else [0.0]
    count = 16 // tau
    for j in range(16):
        kernels = conv.weight[j % count :: count]
        group = j % count // (count // groups)
        scale = kernels.abs().mean() / tau
        expected = conv.bias[j] + sum(
            F.conv2d(signs_of(x + b), scale * signs_of(kernel)[None], padding=1)
            for b, kernel in zip(shifts[group * tau :], kernels)
        )
        torch.testing.assert_close(net.middle[0](x)[:, j : j + 1], expected)


@pytest.mark.parametrize(('tau', 'groups'), [(1, 1), (2, 1), (1, 2), (4, 2)])
def test_linear_layers_are_pointwise_convolutions_of_tokens(tau, groups):
    linear = nn.Linear(6, 8)
    conv = nn.Conv2d(6, 8, 1)
    with torch.no_grad():
        conv.weight.copy_(linear.weight[..., None, None])
        conv.bias.copy_(linear.bias)
    tokens, maps = nn.ModuleList([linear]), nn.ModuleList([conv])
    for net in (tokens, maps):
        binarize(net, tau, groups, keep_first=False, keep_last=False)
    x = torch.randn(2, 5, 6)
    got, expected = tokens[0](x), maps[0](x.transpose(1, 2).unsqueeze(-1))
    torch.testing.assert_close(got, expected.squeeze(-1).transpose(1, 2))


@given(st.sampled_from([1, 2, 3]), st.integers(1, 3), st.integers(1, 4))
def test_shrunk_weights_are_the_float_weights_in_other_places(tau, kernels, inputs):
    weight = torch.randn(kernels * tau, inputs, 3, dtype=torch.float64)
    shrunk = shrunk_weight(weight, tau)
    assert shrunk.shape == (kernels, inputs * tau, 3)
    for j in range(kernels):
        copies = shrunk[j].unflatten(0, (tau, inputs))
        torch.testing.assert_close(copies * tau, weight[j::kernels])


def test_shrunk_weights_fit_the_outputs_they_stand_for():
    """Outputs correlate with the mean of the float outputs; random weights do not."""
    conv, x = nn.Conv2d(32, 32, 3), torch.randn(4, 32, 8, 8)
    net = nn.ModuleList([conv])
    target = conv(x).unflatten(1, (2, 16)).mean(1).flatten()
    binarize(net, tau=2, keep_first=False, keep_last=False)
    chance = ESConv2d(32, 32, 3, tau=2)

    def correlation(layer):
        y = layer(x)[:, :16].flatten()
        return torch.corrcoef(torch.stack([y, target]))[0, 1].item()

    assert correlation(net[0]) > 0.5
    assert abs(correlation(chance)) < 0.2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(tau=0), 'tau=0 must be an integer >= 1'),
        (dict(tau=1.5), 'tau=1.5 must be an integer >= 1'),
        (dict(es_groups=True), 'es_groups=True must be an integer >= 1'),
        (dict(spread=-1.0), 'spread=-1.0'),
        (dict(sign='cubic'), "sign='cubic'"),
        (dict(weight_binarizer='ternary'), "weight_binarizer='ternary'"),
        (dict(pad_value=2), 'pad_value=2'),
        (dict(latent_clip=0.0), 'latent_clip=0.0'),
        (dict(keep=['middle', 'neck.*']), "keep='neck.*' matches no"),
        (dict(keep='middle'), 'nothing to binarize in Net'),
        (dict(tau=7), 'nothing to binarize in Net'),
    ],
)
def test_bad_arguments_are_refused_before_anything_changes(options, message):
    net = Net(nn.Conv2d(8, 8, 1))
    before = dict(net.named_modules())
    with pytest.raises(ValueError, match=re.escape(message)):
        binarize(net, **options)
    assert dict(net.named_modules()) == before


@pytest.mark.parametrize('net', [nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Sequential()])
def test_networks_without_layers_to_replace_are_refused(net):
    with pytest.raises(ValueError, match='nothing to binarize'):
        binarize(net)


def test_an_example_that_fails_changes_nothing():
    net = Net(nn.Conv2d(8, 8, 1))
    with pytest.raises(RuntimeError):
        binarize(net, example=torch.randn(1, 4, 2, 2))
    assert type(net.middle[0]) is nn.Conv2d
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())


def test_options_reach_the_layers_and_are_not_shared():
    net = Net(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    binarizer = mmesbnn.binary.TemperatureWeight()
    binarize(
        net,
        tau=2,
        es_groups=2,
        spread=0.25,
        sign=dict(type='hard_tanh', clip=1.5),
        weight_binarizer=binarizer,
        pad_value=-1,
        latent_clip=1.0,
    )
    a, b = net.middle
    assert (a.expansion.tau, a.expansion.groups, a.shift.min()) == (2, 2, -0.5)
    assert a.conv.sign.clip == 1.5 and a.conv.pad_value == -1
    assert a.conv.parameter_bounds == {'weight': (-1.0, 1.0)}
    assert a.conv.weight_binarizer is not b.conv.weight_binarizer is not binarizer


def test_dtype_mode_and_frozen_state_stay():
    net = Net(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)).to(torch.bfloat16)
    net.middle[0].requires_grad_(False).eval()
    net.middle[1].bias.requires_grad_(False)
    binarize(net, tau=2)
    a, b = net.middle
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in a.parameters())
    assert b.conv.weight.requires_grad and not b.bias.requires_grad
    assert b.training and not any(m.training for m in a.modules())


def test_binarizing_again_finds_nothing():
    net = small_net()
    binarize(net, tau=2)
    with pytest.raises(ValueError, match='a binary layer already'):
        binarize(net, tau=2)


def test_the_report_is_a_table_with_counts():
    report = binarize(small_net(), tau=2)
    assert len(report) == len(list(report)) == 4
    assert (len(report.replaced), len(report.kept)) == (2, 2)
    reasons = [Reason.FIRST, Reason.REPLACED, Reason.REPLACED, Reason.LAST]
    assert [layer.reason for layer in report] == reasons
    assert report.binary_weights == 16 * 8 * 9 + 16 * 8
    assert report.kept_weights == 3 * 8 * 9 + 8 * 4
    lines = str(report).splitlines()
    assert lines[1].split() == ['0', 'Conv2d(3,', '8,', '3x3)', 'kept', 'first', 'layer']
    assert 'ESConv2d' in lines[2] and 'replaced' in lines[2]
    assert lines[-1].startswith('2 layers replaced with 1,280 binary weights; 2 kept')
    strided = binarize(Net(nn.Conv2d(8, 8, (3, 1), (2, 1), groups=2), nn.Conv2d(8, 8, 1)))
    assert strided.layers[1].layer == 'Conv2d(8, 8, 3x1, stride 2x1, groups 2)'


@settings(max_examples=10)
@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]))
def test_binary_multiplications_are_those_of_the_layers_replaced(tau, groups):
    plain, net = small_net(), small_net()
    report = binarize(net, tau, groups)
    before, after = count_ops(plain, (3, 8, 8)), count_ops(net, (3, 8, 8))
    macs = {layer.name: layer.fp_macs for layer in before.layers}
    assert after.total['bops'] == sum(macs[layer.name] for layer in report.replaced)
    assert after.total['fp_macs'] == sum(macs[layer.name] for layer in report.kept)
    assert after.total['binary_params'] == report.binary_weights
    assert check_binary(net, torch.randn(2, 3, 8, 8)) == []


@pytest.mark.parametrize(('tau', 'groups'), [(1, 1), (2, 2)])
def test_training_reduces_the_loss(tau, groups):
    net = small_net()
    binarize(net, tau, groups)
    x, y = torch.randn(32, 3, 8, 8), torch.arange(32) % 4
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad.abs().max() > 0 for p in net.parameters())
    assert losses[-1] < 0.5 * losses[0]


def test_state_dicts_load_into_a_network_binarized_the_same_way():
    a, b = small_net(), small_net()
    for net in (a, b):
        binarize(net, tau=2)
    a(torch.randn(4, 3, 8, 8))
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)
    b.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(a.eval()(x), b.eval()(x))


@pytest.mark.parametrize('twin', [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_binarized_networks_can_be_copied_and_pickled(twin):
    net = small_net()
    report = binarize(net, tau=2)
    other, x = twin(net.eval()), torch.randn(2, 3, 8, 8)
    assert torch.equal(other(x), net(x))
    assert str(twin(report)) == str(report)


def test_layers_that_were_replaced_in_inference_mode_train():
    net, x = small_net(), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        binarize(net, tau=2, example=x, copy_init='signs')
    net(x).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@with_other_defaults
def test_new_layers_do_not_depend_on_the_defaults_of_torch(default):
    expected, net = small_net(), small_net()
    net.load_state_dict(expected.state_dict())
    binarize(expected, tau=4)
    with torch_default(default):
        binarize(net, tau=4)
    found = net.state_dict()
    for name, value in expected.state_dict().items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
