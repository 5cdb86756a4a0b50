"""Steps of units on the native kernels give what the layers give one after another."""

import copy
from threading import Thread

import pytest
import torch
from torch import nn

from mmesbnn.binary import (
    BinaryConv2d,
    LearnableShift,
    RSign,
    ShrunkConv2d,
    TiledBatchNorm2d,
    native_conv,
    native_norms,
    recompute,
    recompute_elementwise,
    sign_sums,
    unit_steps,
    use_native,
)
from mmesbnn.binary.activated_sums import written
from mmesbnn.binary.expansion import Expansion
from mmesbnn.binary.prelus import ChannelPReLU
from mmesbnn.binary.recompute import recompute_segment
from mmesbnn.binary.residual_linear import ResidualBinaryLinear
from mmesbnn.binary.shrunk import ShrunkLinear
from mmesbnn.binary.sign_sums import SignSums
from mmesbnn.binary.signs import HardTanhSign
from mmesbnn.binary.unit_steps import (
    activated_norm,
    gated_norm,
    normalized,
    residual_norm,
    shifted_conv,
    signed_convs,
)
from mmesbnn.binary.weights import RealWeight
from mmesbnn.models.backbones import BNext, ReActNet
from tests.binary.operators import without_kernels
from tests.native.signs import needs_kernels

pytestmark = needs_kernels


@pytest.fixture
def calls(monkeypatch):
    """Switch the kernels on; record which steps run on them."""
    done = []
    for module, kind in ((native_conv, '_SignedConv'), (native_norms, '_Norm')):
        step = getattr(module, kind)

        class Counted(step):
            @staticmethod
            def forward(ctx, *args, kind=kind, step=step):
                done.append(kind)
                return step.forward(ctx, *args)

        monkeypatch.setattr(module, kind, Counted)
    before = use_native()
    yield done
    use_native(before)


class Step(nn.Module):
    """Every function of the module, for two copies."""

    def __init__(self, kind, sign='quadratic', weight='scaled_sign', copies=4, **options):
        super().__init__()
        self.kind, self.copies, wide, small = kind, copies, 16, 16 // copies
        self.shift, self.sign = LearnableShift(wide), RSign(wide, sign)
        expansion = Expansion(2) if copies == 4 else Expansion()
        self.conv = ShrunkConv2d(
            wide // expansion.factor,
            wide // expansion.factor,
            3,
            padding=1,
            expansion=expansion,
            sign=sign if kind == 'shifted' else None,
            weight_binarizer=weight,
            **options,
        )
        if weight == 'temperature':
            self.conv.weight_binarizer.temperature.fill_(1e-9)
        self.norm = TiledBatchNorm2d(
            wide, copies if kind in ('norm', 'activated', 'residual') else 1
        )
        self.act = nn.Sequential(LearnableShift(wide), ChannelPReLU(wide), LearnableShift(wide))
        self.small = small
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x, gate):
        if self.kind == 'shifted':
            return written(shifted_conv(x, self.shift, self.conv)[0])
        if self.kind == 'signed':
            return written(signed_convs(x, self.sign, [self.conv])[0])
        if self.kind == 'activated':
            y, mean = activated_norm(x[:, : self.small] * 1, self.norm, self.act[1], self.copies)
            return written(y) * mean.sigmoid()
        if self.kind == 'residual':
            return residual_norm(x[:, : self.small] * 1, self.norm, x, self.copies, self.act)
        if self.kind == 'norm':
            return normalized(x[:, : self.small] * 1, self.norm, self.copies)
        if self.kind == 'plain residual':
            return residual_norm(x.sin(), self.norm, x, 1)
        return gated_norm(x.sin(), gate, x, self.norm, multiplies=self.kind == 'product')


KINDS = {
    'shifted': '_SignedConv',
    'signed': '_SignedConv',
    'norm': '_Norm',
    'activated': '_Norm',
    'residual': '_Norm',
    'plain residual': '_Norm',
    'gated': '_Norm',
    'product': '_Norm',
}


def results(step, x, gate, run=None):
    """Return result, gradients and running statistics of a step of training."""
    x, gate = x.clone().requires_grad_(), gate.clone().requires_grad_()
    y = (run or step)(x, gate)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    gradients = {name: p.grad for name, p in step.named_parameters()}
    return dict(gradients, y=y.detach(), x=x.grad, gate=gate.grad, **dict(step.named_buffers()))


def assert_rounding(found, expected):
    assert found.keys() == expected.keys()
    for name, theirs in expected.items():
        assert (found[name] is None) == (theirs is None), name
        if theirs is not None:
            bound = 2e-5 * max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(found[name], theirs, rtol=0, atol=bound, msg=name)


def assert_layer_trains_alike(layer, x):
    """Compare a step of a layer on the kernels with one without them."""

    def run(x, unused):
        return layer(x) + 0 * unused.sum()

    layer.zero_grad()
    expected = without_kernels(results, layer, x, x, run)
    layer.zero_grad()
    assert_rounding(results(layer, x, x, run), expected)


def inputs(*size):
    torch.manual_seed(0)
    return torch.randn(*size) * 2, torch.rand(size[0], size[1], 1, 1)


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


def test_sums_of_more_than_16_bits_are_computed_again(calls, monkeypatch):
    x, gate = inputs(2, 16, 6, 6)
    step, convolved = Step('signed'), []
    compute = native_conv._convolve
    monkeypatch.setattr(
        native_conv, '_convolve', lambda *args: convolved.append(1) or compute(*args)
    )
    for limit, runs in ((16 * 9, 1), (16 * 9 - 1, 2)):
        convolved.clear()
        monkeypatch.setattr(native_conv, 'MOST_TERMS', limit)
        results(step, x, gate, lambda x, gate: recompute_elementwise(lambda x: step(x, gate), x))
        assert len(convolved) == runs


@pytest.mark.parametrize('value', [1, -1])
@pytest.mark.parametrize('weight', ['scaled_sign', 'temperature'])
def test_the_largest_sums_are_kept_exactly(calls, weight, value):
    channels = native_conv.MOST_TERMS
    conv = BinaryConv2d(channels, 2, 1, weight_binarizer=weight)
    nn.init.constant_(conv.weight, 0.3)
    if weight == 'temperature':
        conv.weight_binarizer.temperature.zero_()
    x = torch.full((1, channels, 1, 2), float(value), requires_grad=True)
    found = []

    def function(x):
        found.append(conv(x))
        return found[-1].sin()

    recompute_elementwise(function, x).sum().backward()
    assert len(calls) == 2
    scale = 0.3 if weight == 'scaled_sign' else 1.0
    torch.testing.assert_close(found[0], torch.full((1, 2, 1, 2), value * channels * scale))
    assert torch.equal(*found)


def test_a_kept_result_takes_16_bits_for_a_sum(calls, monkeypatch):
    made = []

    class Recorded(recompute.KeptResults):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(recompute, 'KeptResults', Recorded)
    x, gate = inputs(2, 16, 6, 6)
    step = Step('signed')
    recompute_elementwise(lambda x: step(x, gate), x.requires_grad_())
    ((kept,),) = (one.results for one in made)
    assert kept.sums.dtype == torch.int16
    assert kept.sums.shape == (2, 4, 6, 6)


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


def test_a_segment_inside_another_is_recomputed(calls):
    torch.manual_seed(0)
    plain = ReActNet(dict(channels=[16, 32, 32]), stem_stride=1).train()
    nested = copy.deepcopy(plain)
    nested.with_cp = True
    images = torch.randn(2, 3, 32, 32)
    found = []
    for network, run in ((plain, lambda f, x: f(x)), (nested, recompute_elementwise)):
        x = images.clone().requires_grad_()
        y = run(lambda x, network=network: network(x)[0], x)
        y.square().mean().backward()
        found.append((y, x.grad))
    assert all(map(torch.equal, *found))
    for name, parameter in plain.named_parameters():
        assert torch.equal(nested.get_parameter(name).grad, parameter.grad), name
    for name, buffer in plain.named_buffers():
        assert torch.equal(nested.get_buffer(name), buffer), name


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


def test_hooks_of_weights_are_called(calls):
    step, seen = Step('signed'), []
    step.conv.weight_binarizer.register_forward_hook(lambda *args: seen.append(1))
    step(*inputs(2, 16, 5, 5))
    assert seen == [1]
    assert calls == ['_SignedConv']


def hooked(module):
    module.register_forward_hook(lambda *args: None)


CHANGES = {
    'a hook of the norm': lambda step: hooked(step.norm),
    'a hook of the PReLU': lambda step: hooked(step.act[1]),
    'a hook of the units': lambda step: hooked(step.act),
    'evaluation': lambda step: step.norm.eval(),
    'another norm': lambda step: setattr(step, 'norm', nn.BatchNorm2d(16)),
    'a forward of its own': lambda step: setattr(step.norm, 'forward', step.norm.forward),
}


@pytest.mark.parametrize('change', CHANGES)
def test_changed_layers_run_in_turn(calls, change):
    step = Step('residual')
    CHANGES[change](step)
    step(*inputs(2, 16, 5, 5))
    assert not calls


SIGN_CHANGES = {
    'a hook of the convolution': lambda step: hooked(step.conv),
    'a hook in place of its sign': lambda step: hooked(step.conv.sign),
    'a layer in place of its sign': lambda step: setattr(step.conv, 'sign', nn.Tanh()),
    'a hook of the sign': lambda step: hooked(step.sign.sign),
    'a hook of the whole sign': lambda step: hooked(step.sign),
    'a hook of the shift': lambda step: hooked(step.sign.shift),
    'a zero': lambda step: setattr(step.sign.sign, 'zero', 0),
    'real weights': lambda step: setattr(step.conv, 'weight_binarizer', RealWeight()),
    'weights of 0': lambda step: nn.init.zeros_(step.conv.weight),
    'a weight that is NaN': lambda step: step.conv.weight.data[0, 0, 0, 0].fill_(torch.nan),
    'a shift that is NaN': lambda step: nn.init.constant_(step.sign.shift.bias, torch.nan),
}


@pytest.mark.parametrize('change', SIGN_CHANGES)
def test_changed_signs_run_in_turn(calls, change):
    step = Step('signed')
    SIGN_CHANGES[change](step)
    step(*inputs(2, 16, 5, 5))
    assert not calls


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


class Pair(nn.Module):
    """A convolution and the norm behind it, for four copies."""

    def __init__(self, weight='scaled_sign'):
        super().__init__()
        self.step = Step('residual', weight=weight)

    def forward(self, x, unused):
        step = self.step
        y, x, _ = shifted_conv(x, step.shift, step.conv)
        return residual_norm(y, step.norm, x, step.copies, step.act)


@pytest.fixture
def written_sums(monkeypatch):
    """Record the sums that are written as results."""
    done = []
    compute = sign_sums.scaled
    for module in (sign_sums, native_conv):
        monkeypatch.setattr(module, 'scaled', lambda *args: done.append(1) or compute(*args))
    return done


@pytest.mark.parametrize('weight', ['scaled_sign', 'temperature'])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_a_norm_reads_the_sums_of_a_convolution(calls, written_sums, weight, layout):
    x, gate = inputs(2, 16, 6, 7)
    x, pair = x.contiguous(memory_format=layout), Pair(weight)
    pair.step.conv.sign = HardTanhSign()
    assert isinstance(shifted_conv(x, pair.step.shift, pair.step.conv)[0], SignSums)
    expected = without_kernels(results, copy.deepcopy(pair), x, gate)
    assert calls == ['_SignedConv']
    assert_rounding(results(copy.deepcopy(pair), x, gate), expected)

    def run(x, gate):
        return recompute_elementwise(lambda x: pair(x, gate), x)

    assert_rounding(results(pair, x, gate, run), expected)
    assert calls == ['_SignedConv', *3 * ['_SignedConv', '_Norm']]
    assert not written_sums


@pytest.mark.parametrize('recomputes', [False, True])
def test_another_norm_gets_the_written_result(calls, written_sums, recomputes):
    x, gate = inputs(2, 16, 6, 7)
    pair = Pair()
    pair.step.conv.sign = HardTanhSign()
    other = copy.deepcopy(pair)
    expected = without_kernels(results, other, x, gate)
    pair.step.norm.register_forward_hook(lambda *args: None)

    def run(x, gate):
        return recompute_elementwise(lambda x: pair(x, gate), x) if recomputes else pair(x, gate)

    assert_rounding(results(pair, x, gate, run), expected)
    assert set(calls) == {'_SignedConv'}
    assert len(written_sums) == 1 + recomputes


def test_sums_of_more_than_16_bits_are_written(calls, monkeypatch):
    x, gate = inputs(2, 16, 6, 7)
    pair = Pair()
    pair.step.conv.sign = HardTanhSign()
    monkeypatch.setattr(native_conv, 'MOST_TERMS', 16 * 9 - 1)
    assert isinstance(shifted_conv(x, pair.step.shift, pair.step.conv)[0], torch.Tensor)
    expected = without_kernels(results, copy.deepcopy(pair), x, gate)
    assert_rounding(results(pair, x, gate), expected)


def test_soft_weights_run_in_turn(calls):
    step = Step('signed', weight='temperature')
    step.conv.weight_binarizer.temperature.fill_(0.1)
    step(*inputs(2, 16, 5, 5))
    assert not calls


def test_a_nan_of_the_input_stays_visible(calls):
    x, gate = inputs(1, 16, 5, 5)
    x[0, 3, 2, 2] = torch.nan
    assert Step('signed')(x, gate).isnan().any()
    assert not calls


@pytest.mark.parametrize('kind', KINDS)
def test_other_maps_run_in_turn(calls, kind):
    x, gate = inputs(2, 16, 6, 6)
    step = Step(kind)
    with torch.no_grad():
        step(x, gate)
    with torch.autocast('cpu', torch.bfloat16):
        step(x, gate)
    copy.deepcopy(step).double()(x.double(), gate.double())
    torch.jit.trace(step, (x, gate), check_trace=False)
    torch.func.grad(lambda x: step.eval()(x, gate).sum())(x)
    assert not calls


@pytest.mark.parametrize('kind', KINDS)
def test_channels_last_give_the_same(calls, kind):
    x, gate = inputs(2, 16, 6, 7)
    step = Step(kind)
    last = x.contiguous(memory_format=torch.channels_last)
    expected = without_kernels(results, copy.deepcopy(step), last, gate)
    assert_rounding(results(step, last, gate), expected)
    # gates and means have pixels of a channel side by side
    assert calls == ([] if kind in ('activated', 'gated', 'product') else [KINDS[kind]])


def test_of_one_value_torch_says_that_it_has_no_variance(calls):
    step = Step('plain residual')
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        step(*inputs(1, 16, 1, 1))


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


class Unit(nn.Module):
    """A convolution, a norm with its PReLU, and a gated norm that reads their result."""

    def __init__(self, copies=4, multiplies=False):
        super().__init__()
        self.conv = Step('shifted', copies=copies)
        self.inner, self.outer = Step('activated', copies=copies), Step('gated')
        self.multiplies = multiplies

    def activated(self, x):
        y, x, _ = shifted_conv(x, self.conv.shift, self.conv.conv)
        return *activated_norm(y, self.inner.norm, self.inner.act[1], self.inner.copies), x

    def forward(self, x, gate):
        y, mean, x = self.activated(x)
        gate = (gate + mean).sigmoid()
        return gated_norm(y, gate, x, self.outer.norm, multiplies=self.multiplies)


@pytest.mark.parametrize('multiplies', [False, True])
@pytest.mark.parametrize('copies', [1, 4])
@pytest.mark.parametrize('with_cp', [False, True])
def test_a_gated_norm_reads_what_is_not_written(calls, copies, multiplies, with_cp):
    x, gate = inputs(3, 16, 7, 9)
    unit = Unit(copies, multiplies)
    expected = without_kernels(results, copy.deepcopy(unit), x, gate)

    def again(x, gate):
        return recompute_elementwise(lambda x: unit(x, gate), x)

    assert_rounding(results(unit, x, gate, again if with_cp else None), expected)
    assert calls == ['_SignedConv', '_Norm', '_Norm'] * (2 if with_cp else 1)


def test_what_is_not_written_is_stored_as_16_bits(calls):
    x, gate = inputs(2, 16, 6, 6)
    unit, stored = Unit(), []

    def keep(tensor):
        stored.append(tensor)
        return tensor

    y, *_ = unit.activated(x.clone().requires_grad_())
    assert y.stand_in.shape == (2, 16, 6, 6)
    assert y.stand_in.untyped_storage().nbytes() == 4
    assert y.sums.dtype == torch.int16 and y.sums.shape == (2, 4, 6, 6)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        unit(x.clone().requires_grad_(), gate)
    maps = [one for one in stored if one.shape[-2:] == (6, 6) and one.is_floating_point()]
    # input and residual are the same map
    assert {one.data_ptr() for one in maps} == {maps[0].data_ptr()}


@pytest.mark.parametrize('default', [torch.float64, torch.bfloat16])
def test_the_default_dtype_of_torch_changes_nothing(calls, default):
    x, gate = inputs(2, 16, 6, 6)
    unit = Unit()
    expected = results(copy.deepcopy(unit), x, gate)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = results(unit, x, gate)
    finally:
        torch.set_default_dtype(before)
    assert_rounding(found, expected)
    assert len(calls) == 6


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


def test_torch_reads_what_is_not_written(calls):
    x, gate = inputs(2, 16, 6, 6)
    unit = Unit()
    unit.outer.norm.register_forward_hook(lambda *args: None)
    expected = without_kernels(results, copy.deepcopy(unit), x, gate)
    assert_rounding(results(unit, x, gate), expected)
    assert calls == ['_SignedConv', '_Norm']


class Random(nn.Module):
    """A native convolution, dropout, and a parameter that nothing reads."""

    def __init__(self):
        super().__init__()
        self.step, self.gate = Step('signed'), inputs(2, 16, 6, 6)[1]
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return nn.functional.dropout(self.step(x, self.gate), 0.5).sin()


def gradients_of(run, module, x):
    """Return the result of ``run(x)`` with fixed random numbers, and gradients."""
    torch.manual_seed(3)
    y = run(x)
    wanted = [x, *module.parameters()]
    y.sum().backward(retain_graph=True)
    found = [one.grad for one in wanted]
    again = torch.autograd.grad(y.sum(), wanted, allow_unused=True)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(found, again))
    return [y.detach(), *(one for one in found if one is not None), torch.rand(1)]


def test_a_recomputed_segment_is_its_function(calls):
    torch.manual_seed(0)
    module = Random()
    other, x = copy.deepcopy(module), inputs(2, 16, 6, 6)[0]
    expected = gradients_of(module, module, x.clone().requires_grad_())
    assert len(calls) == 1
    found = gradients_of(
        lambda x: recompute_segment(other, x, [other]), other, x.clone().requires_grad_()
    )
    assert len(calls) == 4  # once, and once in each of the two backward passes
    assert module.unused.grad is other.unused.grad is None
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_recomputed_segment_ignores_autocast_around_its_backward_pass(calls):
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    found = []
    for enabled in (False, True):
        torch.manual_seed(3)
        y = recompute_segment(module, x, [module])
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            found.append(torch.autograd.grad(y.sum(), [x, *module.parameters()], allow_unused=True))
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert len(calls) == 4


@pytest.mark.parametrize('late', [True, False])
def test_hooks_of_parameters_run_once_in_a_recomputed_segment(calls, late):
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    weight, found = module.step.conv.weight, []
    for segment in (False, True):
        torch.manual_seed(3)
        weight.grad = None
        y = recompute_segment(module, x, [module]) if segment and late else None
        hook = weight.register_hook(lambda grad: found.append(grad) or grad.neg())
        if y is None:
            y = recompute_segment(module, x, [module]) if segment else module(x)
        for _ in range(2):  # hooks are there again after the first backward pass
            y.sum().backward(retain_graph=True)
        hook.remove()
        found.append(weight.grad)
    assert len(found) == 6
    assert all(map(torch.equal, found[:3], found[3:]))


def test_a_recomputed_segment_stores_its_input_only(calls):
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(stored.append, lambda saved: saved):
        recompute_segment(module, x, [module])
    parameters = {p.data_ptr() for p in module.parameters()}
    assert [t.data_ptr() for t in stored if t.data_ptr() not in parameters] == [x.data_ptr()]


@pytest.mark.parametrize('extra', [0, 1])
def test_a_segment_of_few_pixels_and_many_weights_is_not_recomputed(calls, extra):
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    weights = recompute.MAPS_OF_SEGMENT * x.numel()
    missing = weights - sum(p.numel() for p in module.parameters())
    module.unused = nn.Parameter(torch.ones(1 + missing + extra))
    y = recompute_segment(module, x, [module])
    y.sum().backward()
    assert len(calls) == (1 if extra else 2)


@pytest.mark.parametrize('recomputes', [recompute_segment, recompute_elementwise])
def test_steps_of_another_thread_are_not_part_of_a_segment(calls, recomputes):
    torch.manual_seed(0)
    module, other = Random(), Unit()
    x, gate = inputs(2, 16, 6, 6)
    expected, found = results(copy.deepcopy(other), x, gate), []

    def function(x):
        twin = copy.deepcopy(other)
        thread = Thread(target=lambda: found.append(results(twin, 1 * x.detach(), gate)))
        thread.start()
        thread.join()
        return module(x)

    more = () if recomputes is recompute_elementwise else ([module],)
    recomputes(function, x.clone().requires_grad_(), *more).sum().backward()
    assert len(found) == 2
    for one in found:
        assert all(
            a is b is None or torch.equal(a, b) for a, b in zip(one.values(), expected.values())
        )


def test_parameters_frozen_before_the_second_pass_are_an_error(calls):
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    y = recompute_segment(module, x, [module])
    module.step.conv.requires_grad_(False)
    with pytest.raises(RuntimeError, match='requires_grad_'):
        y.sum().backward()


@pytest.mark.parametrize('processes', [True, False])
@pytest.mark.parametrize('sync', [True, False])
def test_a_small_segment_is_recomputed_if_its_norms_wait_for_processes(
    calls, monkeypatch, sync, processes
):
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: processes)
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    module.norm = TiledBatchNorm2d(4, sync=sync)
    module.unused = nn.Parameter(torch.ones(recompute.MAPS_OF_SEGMENT * x.numel()))
    recompute_segment(module, x, [module]).sum().backward()
    assert len(calls) == (2 if sync and processes else 1)


def test_a_segment_without_gradients_is_not_recomputed(calls):
    module, x = Random(), inputs(2, 16, 6, 6)[0]
    with torch.no_grad():
        y = recompute_segment(module, x, [module])
    assert not y.requires_grad
    assert not calls


@pytest.mark.parametrize('segment', [True, False])
@pytest.mark.parametrize('training', [True, False])
def test_a_mode_that_changes_before_the_second_pass_is_an_error(calls, training, segment):
    norm, x = TiledBatchNorm2d(16).train(training), inputs(2, 16, 6, 6)[0].requires_grad_()

    def function(x):
        return normalized(x, norm).square()

    if segment:
        y = recompute_segment(function, x, [norm])
    else:
        y = recompute.recompute_elementwise(function, x)
    norm.train(not training)
    # torch says it of its own checkpoints where fewer steps run
    with pytest.raises(RuntimeError, match='were changed' if segment or not training else None):
        y.sum().backward()
