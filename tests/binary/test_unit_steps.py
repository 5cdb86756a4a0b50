"""Steps of units on the native kernels give what the layers give one after another."""

import copy

import pytest
import torch
from torch import nn

from mmesbnn.binary import (
    BinaryConv2d,
    ShrunkConv2d,
    native_conv,
    native_norms,
    recompute_elementwise,
    unit_steps,
    use_native,
)
from mmesbnn.binary.activated_sums import written
from mmesbnn.binary.expansion import Expansion
from mmesbnn.binary.recompute import recompute_segment
from mmesbnn.binary.residual_linear import ResidualBinaryLinear
from mmesbnn.binary.shrunk import ShrunkLinear
from mmesbnn.binary.unit_steps import shifted_conv, signed_convs
from mmesbnn.models.backbones import BNext, ReActNet
from tests.binary.operators import without_kernels
from tests.binary.units import (
    KINDS,
    Step,
    assert_layer_trains_alike,
    assert_rounding,
    inputs,
    results,
)
from tests.native.signs import needs_kernels

pytestmark = needs_kernels


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('copies', [1, 4])
@pytest.mark.parametrize('sign', ['quadratic', dict(type='hard_tanh', clip=1.5)])
@pytest.mark.parametrize('weight', ['scaled_sign', 'temperature'])
def test_a_step_is_its_layers_in_turn(calls, kind, copies, sign, weight):
    x, gate = inputs(3, 16, 7, 9)
    step = Step(kind, sign, weight, copies)
    expected = without_kernels(results, copy.deepcopy(step), x, gate)
    assert not calls
    assert_rounding(results(step, x, gate), expected)
    assert calls == [KINDS[kind]]


@pytest.mark.parametrize('kind', KINDS)
def test_recomputation_gives_the_same(calls, kind, monkeypatch):
    x, gate = inputs(2, 16, 6, 6)
    step = Step(kind)
    expected = without_kernels(results, copy.deepcopy(step), x, gate)
    convolved = []
    compute = native_conv._convolve
    monkeypatch.setattr(
        native_conv, '_convolve', lambda *args: convolved.append(1) or compute(*args)
    )

    def run(x, gate):
        return recompute_elementwise(lambda x: step(x, gate), x)

    assert_rounding(results(step, x, gate, run), expected)
    assert len(calls) == 2
    # a convolution runs once, and its result is kept
    assert len(convolved) == (KINDS[kind] == '_SignedConv')


@pytest.mark.parametrize(
    'network',
    [
        lambda: BNext(dict(channels=[16, 32, 32]), tau=2, stem_stride=1),
        lambda: BNext(dict(channels=[16, 32, 32]), stem_stride=1),
        lambda: ReActNet(dict(channels=[16, 32, 32]), tau=2, stem_stride=1),
        lambda: ReActNet(dict(channels=[16, 16, 32], depths=[2, 2]), generalized=False),
    ],
    ids=['es-bnext', 'bnext', 'es-reactnet', 'bireal'],
)
@pytest.mark.parametrize('with_cp', [False, True])
def test_a_network_trains_alike(calls, network, with_cp):
    torch.manual_seed(0)
    network = network().train()
    for name, buffer in network.named_buffers():
        if name.endswith('temperature'):
            buffer.zero_()
    x = torch.randn(2, 3, 32, 32)
    found = []
    for on in (False, True):
        ours = copy.deepcopy(network)
        ours.with_cp = on and with_cp
        use_native(on)
        (y,) = ours(x)
        y.square().mean().backward()
        found.append((y.detach(), ours))
    (expected, theirs), (y, ours) = found
    assert set(calls) == {'_SignedConv', '_Norm'}
    assert len(calls) >= 8
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    for (name, p), other in zip(ours.named_parameters(), theirs.parameters()):
        # that of a shift before a norm is 0, but for rounding
        error = (p.grad - other.grad).norm() / other.grad.norm().clamp(min=1e-5)
        assert error < 2e-2, name  # a sign near 0 may differ
    for (name, buffer), other in zip(ours.named_buffers(), theirs.buffers()):
        torch.testing.assert_close(buffer, other, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize('weight', ['centred_sign', 'plain_sign', 'scaled_sign'])
@pytest.mark.parametrize('expanded', [False, True])
@pytest.mark.parametrize('options', [{}, dict(tau=2), dict(tau=2, es_groups=2)])
def test_a_linear_unit_is_its_layers_in_turn(calls, weight, expanded, options):
    torch.manual_seed(0)
    factor = options.get('tau', 1) * options.get('es_groups', 1)
    unit = ResidualBinaryLinear(
        12, 8, expanded_in=expanded, expanded_out=expanded, weight_binarizer=weight, **options
    )
    for parameter in unit.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 9, 12 * (factor if expanded else 1))
    residual = torch.randn(2, 9, unit.norm.num_features)
    expected = without_kernels(results, copy.deepcopy(unit), x, residual)
    assert not calls
    assert_rounding(results(copy.deepcopy(unit), x, residual), expected)
    assert calls == ['_SignedConv', '_Norm']

    def run(x, residual):
        return recompute_elementwise(lambda x: unit(x, residual), x)

    assert_rounding(results(unit, x, residual, run), expected)
    assert calls == 3 * ['_SignedConv', '_Norm']


@pytest.mark.parametrize('options', [{}, dict(tau=2, expanded_out=True), dict(tau=4)])
@pytest.mark.parametrize('copies', [2, 4, 8])
def test_a_residual_is_tiled_inside_of_the_step(calls, options, copies):
    torch.manual_seed(0)
    unit = ResidualBinaryLinear(12, 8, **options)
    for parameter in unit.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 9, 12)
    residual = torch.randn(2, 9, unit.norm.num_features // copies)

    def run(x, residual):
        return unit(x, residual, copies)

    expected = without_kernels(results, copy.deepcopy(unit), x, residual.repeat(1, 1, copies))
    gate = expected['gate'].unflatten(-1, (copies, -1)).sum(-2)
    found = results(unit, x, residual, run)
    assert_rounding(found, dict(expected, gate=gate))
    assert calls == ['_SignedConv', '_Norm']


@pytest.mark.parametrize('kind', ['norm', 'activated', 'residual', 'gated', 'product'])
def test_a_recomputed_norm_is_not_measured_again(calls, monkeypatch, kind):
    given, normalize = [], native_norms.normalize

    def recorded(*args, stats=None, **options):
        done = normalize(*args, stats=stats, **options)
        given.append((stats, done.stats))
        return done

    monkeypatch.setattr(native_norms, 'normalize', recorded)
    x, gate = inputs(2, 16, 6, 6)
    step = Step(kind)
    expected = results(copy.deepcopy(step), x, gate)

    def run(x, gate):
        return recompute_elementwise(lambda x: step(x, gate), x)

    found = results(step, x, gate, run)
    for name, theirs in expected.items():
        assert found[name] is theirs is None or torch.equal(found[name], theirs), name
    (none, _), (first, measured), (second, _) = given
    assert none is None
    assert first is None
    assert (second == measured).all()


def test_a_linear_layer_with_a_sign_of_its_own(calls):
    torch.manual_seed(0)
    layer = ShrunkLinear(12, 8, bias=True, expansion=Expansion(2, 2))
    x = torch.randn(3, 5, 48)
    assert_layer_trains_alike(layer, x)
    assert calls == ['_SignedConv']


def test_a_drop_in_convolution_with_a_bias(calls):
    torch.manual_seed(0)
    layer = ShrunkConv2d(8, 8, 3, 2, 1, bias=True, expansion=Expansion(2), pad_value=-1)
    x = torch.randn(3, 16, 7, 6)
    for map_ in (x, x.contiguous(memory_format=torch.channels_last)):
        assert_layer_trains_alike(layer, map_)
    assert calls == 2 * ['_SignedConv']


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('size', [(3, 3), (5, 3), (3, 5)])
def test_results_of_one_pixel_or_channel(calls, channels, size):
    torch.manual_seed(0)
    layer = BinaryConv2d(6, channels, 3, weight_binarizer='plain_sign')
    x = torch.randn(2, 6, *size).contiguous(memory_format=torch.channels_last)
    assert_layer_trains_alike(layer, x)
    assert calls == ['_SignedConv']


def test_a_layer_with_weights_of_its_own(calls):
    class Negated(BinaryConv2d):
        def effective_weight(self):
            return -super().effective_weight()

    torch.manual_seed(0)
    layer, x = Negated(8, 8, 3), torch.randn(2, 8, 5, 5)
    assert_layer_trains_alike(layer, x)
    assert calls == ['_SignedConv']


def test_gradients_of_a_residual_are_its_own(calls):
    """Two steps get the same gradient, and both give it on; a sum must not change it."""
    x, gate = inputs(2, 16, 5, 5)

    def run(steps):
        leaf = x.clone().requires_grad_()
        other = leaf.sin()
        y = sum(step(leaf, gate) + step(other, gate) for step in steps)
        return torch.autograd.grad((y * other).sum(), leaf)[0]

    steps = [Step('plain residual'), Step('gated')]
    expected = without_kernels(run, copy.deepcopy(steps))
    torch.testing.assert_close(run(steps), expected, rtol=1e-4, atol=1e-4)
    assert len(calls) == 4


def test_a_result_that_is_changed_in_place_is_kept_as_it_was(calls):
    x, gate = inputs(2, 16, 5, 5)
    step = Step('signed')

    def run(x, gate, module=step):
        return module(x, gate).add_(1).sin()

    other = copy.deepcopy(step)
    expected = without_kernels(results, other, x, gate, lambda x, gate: run(x, gate, other))
    found = results(step, x, gate, lambda x, gate: recompute_elementwise(lambda x: run(x, gate), x))
    assert calls == 2 * ['_SignedConv']
    assert_rounding(found, expected)


def test_two_convolutions_of_a_sign(calls):
    x, _ = inputs(2, 16, 5, 5)
    step, other = Step('signed'), Step('signed')
    expected = without_kernels(signed_convs, x, step.sign, [step.conv, other.conv])
    for found, theirs in zip(signed_convs(x, step.sign, [step.conv, other.conv]), expected):
        torch.testing.assert_close(written(found), theirs)
    assert calls == 2 * ['_SignedConv']
    nn.init.zeros_(other.conv.weight)
    expected[1] = without_kernels(other.conv, step.sign(x))
    for found, theirs in zip(signed_convs(x, step.sign, [step.conv, other.conv]), expected):
        torch.testing.assert_close(written(found), theirs)
    assert len(calls) == 3


@pytest.mark.parametrize('kind', KINDS)
def test_channels_last_give_the_same(calls, kind):
    x, gate = inputs(2, 16, 6, 7)
    step = Step(kind)
    last = x.contiguous(memory_format=torch.channels_last)
    expected = without_kernels(results, copy.deepcopy(step), last, gate)
    assert_rounding(results(step, last, gate), expected)
    # gates and means have pixels of a channel side by side
    assert calls == ([] if kind in ('activated', 'gated', 'product') else [KINDS[kind]])


def test_a_layer_that_is_frozen_gets_no_gradient(calls):
    step = Step('residual')
    step.norm.requires_grad_(False)
    found = results(step, *inputs(2, 16, 5, 5))
    assert found['norm.weight'] is None
    assert found['act.1.weight'] is not None
    assert calls == ['_Norm']


def test_momentum_none_is_the_mean_of_all_batches(calls):
    steps = [Step('plain residual') for _ in range(2)]
    for step in steps:
        step.norm.momentum = None
    x, gate = inputs(4, 16, 5, 5)
    for half in x.chunk(2):
        steps[0](half, gate[:2])
        without_kernels(steps[1], half, gate[:2])
    for ours, theirs in zip(steps[0].norm.buffers(), steps[1].norm.buffers()):
        torch.testing.assert_close(ours, theirs)
    assert len(calls) == 2


def test_only_the_means_are_used(calls):
    step = Step('activated')
    x, _ = inputs(2, 4, 5, 5)
    leaf = x.requires_grad_()
    found = []
    for run in (lambda f: f(), lambda f: without_kernels(f)):
        _, mean = run(lambda: unit_steps.activated_norm(leaf, step.norm, step.act[1], 4))
        found.append(torch.autograd.grad(mean.square().sum(), leaf)[0])
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
    assert calls == ['_Norm']


@pytest.mark.parametrize('last', [False, True])
def test_the_gradient_of_other_readers_is_added(calls, last):
    step = Step('shifted')

    def run(x, unused):
        x = x.sin()
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        y, passed, _ = shifted_conv(x, step.shift, step.conv)
        return torch.cat([written(y), passed.cos(), passed * 2], 1)

    x, gate = inputs(2, 16, 6, 6)
    expected = without_kernels(results, step, x, gate, run)
    step.zero_grad()
    assert_rounding(results(step, x, gate, run), expected)
    assert calls == ['_SignedConv']
    for read in (0, 1):
        leaf = x.clone().requires_grad_()
        y, passed, _ = shifted_conv(leaf, step.shift, step.conv)
        (written(y) if read == 0 else passed).sum().backward()
        other = x.clone().requires_grad_()
        y, passed, _ = without_kernels(shifted_conv, other, step.shift, step.conv)
        (y if read == 0 else passed).sum().backward()
        torch.testing.assert_close(leaf.grad, other.grad, rtol=0, atol=1e-4)


@pytest.mark.parametrize('recomputes', [False, True])
@pytest.mark.parametrize('reads', [('y', 'mean'), ('y', 'x', 'mean'), ('x', 'mean'), ('mean',)])
def test_the_mean_of_the_input_is_made_with_its_signs(calls, reads, recomputes):
    step = Step('shifted')

    def read(x):
        y, passed, mean = shifted_conv(x, step.shift, step.conv, with_mean=True)
        mean = passed.mean((2, 3), keepdim=True) if mean is None else mean
        parts = dict(y=written(y), x=passed.cos(), mean=mean.square().expand(-1, -1, 6, 7))
        return torch.cat([parts[name] for name in reads], 1)

    def run(x, unused):
        x = x.sin()
        return recompute_segment(read, x, [step]) if recomputes else read(x)

    x, gate = inputs(2, 16, 6, 7)
    assert shifted_conv(x.sin(), step.shift, step.conv, with_mean=True)[2].shape == (2, 16, 1, 1)
    expected = without_kernels(results, step, x, gate, run)
    step.zero_grad()
    calls.clear()
    assert_rounding(results(step, x, gate, run), expected)
    assert calls == ['_SignedConv'] * (1 + recomputes)


def test_maps_with_channels_last_have_means_of_their_own(calls):
    step, (x, _) = Step('shifted'), inputs(2, 16, 6, 7)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert shifted_conv(x, step.shift, step.conv, with_mean=True)[2] is None
    assert calls == ['_SignedConv']


class Noise(nn.Module):
    """A parametrization that draws numbers."""

    def forward(self, weight):
        return weight + torch.randn_like(weight)


@pytest.mark.parametrize('binarizer', ['scaled_sign', 'plain_sign', 'learned_scale'])
def test_a_parametrized_weight_is_computed_once(calls, binarizer):
    layer, x = BinaryConv2d(16, 4, 3, weight_binarizer=binarizer), inputs(2, 16, 6, 6)[0]
    nn.utils.parametrize.register_parametrization(layer, 'weight', Noise())
    drawn = []
    for switched in (lambda run: run(), without_kernels):
        torch.manual_seed(3)
        drawn.append((switched(lambda: layer(x)).detach(), torch.rand(1)))
    for ours, theirs in zip(*drawn):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert calls == ['_SignedConv']
