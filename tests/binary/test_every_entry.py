"""Rules that all signs and weight binarizers of the package follow."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import vmap

from mmesbnn.binary import BinaryConv2d, Scheduled, build_sign, build_weight_binarizer, signs
from mmesbnn.binary.entries import SIGNS, WEIGHT_BINARIZERS
from mmesbnn.binary.forms import InputForm, WeightForm

#: Names and arguments of all entries, and of some with other arguments.
SPECS = {name: name for name in SIGNS.own} | {
    'dorefa-8': dict(type='dorefa', bits=8),
    'fda-few': dict(type='fda', first_terms=1, last_terms=3, frequency=0.5),
}
WEIGHT_SPECS = {name: name for name in WEIGHT_BINARIZERS.own} | {
    'attached': dict(type='scaled_sign', attached=True),
    'unmasked': dict(type='plain_sign', clip=None),
}
every_sign = pytest.mark.parametrize('spec', SPECS.values(), ids=SPECS)
every_weight = pytest.mark.parametrize('spec', WEIGHT_SPECS.values(), ids=WEIGHT_SPECS)


def at(module, progress):
    for part in module.modules():
        if isinstance(part, Scheduled):
            part.progress.fill_(progress)
    return module


def entries():
    """Pairs of a module and an input, at the start, in the middle and at the end."""
    generator = torch.Generator().manual_seed(1)
    x = 1.5 * torch.randn(6, 3, 3, 3, generator=generator, dtype=torch.float64)
    for progress in (0.0, 0.4, 1.0):
        for spec in SPECS.values():
            yield at(build_sign(spec), progress).double(), x
        for spec in WEIGHT_SPECS.values():
            yield at(build_weight_binarizer(spec, 6), progress).double(), x


ENTRIES = list(entries())
IDS = [f'{type(module).__name__}-{i}' for i, (module, _) in enumerate(ENTRIES)]
every_entry = pytest.mark.parametrize(('module', 'x'), ENTRIES, ids=IDS)


@every_sign
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_outputs_take_the_values_of_the_form(spec, dtype):
    sign = build_sign(spec)
    assert isinstance(sign.form, InputForm)
    x = torch.cat([torch.linspace(-3, 3, 4001), torch.tensor([math.inf, -math.inf])]).to(dtype)
    steps = sign.form.values - 1
    levels = sign.form.low + (1 - sign.form.low) * torch.arange(steps + 1).double() / steps
    for leaf in (x, x.clone().requires_grad_()):
        y = sign(leaf)
        assert y.dtype == dtype
        found = y.detach().double().unique()
        torch.testing.assert_close(found, levels, rtol=0, atol=torch.finfo(dtype).eps)
        assert sign(torch.full_like(leaf, math.nan)).isnan().all()


@every_weight
def test_weights_have_the_form(spec):
    binarizer = build_weight_binarizer(spec, 6)
    assert isinstance(binarizer.form, WeightForm)
    conv = BinaryConv2d(4, 6, 3, weight_binarizer=spec)
    if hasattr(conv.weight_binarizer, 'temperature'):
        conv.weight_binarizer.temperature.zero_()
    if spec == 'fixed':
        conv.weight.data.sign_().mul_(0.3)
    if spec == 'learned_scale':
        conv.weight_binarizer.scale.data.uniform_(0.5, 2)
    weight = conv.effective_weight()
    assert weight.shape == conv.weight.shape
    counts = {len(channel.unique()) for channel in weight}
    if spec == 'real':
        assert conv.has_real_weights
        return
    assert counts == {2}
    assert conv.why_not_binary() is None
    assert conv.has_scales or bool((weight.abs() == 1).all())
    if conv.has_scales and spec != 'balanced':  # whose scale is often 2^0
        assert not bool((weight.abs() == 1).any())


@every_entry
def test_values_are_the_same_with_and_without_gradients(module, x):
    y = module(x)
    assert torch.equal(module(x.clone().requires_grad_()), y)
    assert y.isfinite().all()


def first_and_second(module, x):
    generator = torch.Generator().manual_seed(2)
    x = x.clone().requires_grad_()
    u, v = torch.randn(2, *x.shape, generator=generator, dtype=x.dtype)
    u.requires_grad_()
    (first,) = torch.autograd.grad(module(x), x, u, create_graph=True)
    through_x, through_u = torch.autograd.grad(first, (x, u), v, allow_unused=True)
    return first.detach(), torch.zeros_like(x) if through_x is None else through_x, through_u


@every_entry
def test_single_steps_have_the_gradients_of_the_composed_formula(module, x, monkeypatch):
    found = first_and_second(module, x)
    monkeypatch.setattr(signs, 'is_composed', lambda: True)
    expected = first_and_second(module, x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@every_entry
def test_forward_mode_agrees_with_backward_mode(module, x):
    v = torch.randn_like(x)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(module(forward_ad.make_dual(x, v))).tangent
    leaf, u = x.clone().requires_grad_(), torch.randn_like(x)
    (gradient,) = torch.autograd.grad(module(leaf), leaf, u)
    torch.testing.assert_close((found * u).sum(), (gradient * v).sum())


@every_entry
def test_compiles_to_one_graph_and_can_be_traced(module, x):
    module, x = copy.deepcopy(module).float(), x.float()
    torch._dynamo.reset()  # it limits how many classes share a line of code
    whole = torch.compile(module, backend='aot_eager', fullgraph=True)
    u, leaf, other = torch.randn_like(x), x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(whole(leaf), module(other))
    found = torch.autograd.grad(whole(leaf), leaf, u)
    expected = torch.autograd.grad(module(other), other, u)
    torch.testing.assert_close(found, expected)
    traced = torch.jit.trace(module, x)
    torch.testing.assert_close(traced(x), module(x))


@every_sign
def test_maps_over_samples_and_symbolic_traces(spec):
    conv, x = BinaryConv2d(4, 6, 3, sign=spec), torch.randn(3, 2, 4, 5, 5)
    torch.testing.assert_close(vmap(conv)(x), torch.stack([conv(y) for y in x]))
    net = nn.Sequential(build_sign(spec), nn.ReLU())
    traced = torch.fx.symbolic_trace(net)
    assert torch.equal(traced(x), net(x))


@every_weight
def test_maps_over_weights(spec):
    binarizer = build_weight_binarizer(spec, 6)
    w = torch.randn(3, 6, 4)
    torch.testing.assert_close(vmap(binarizer)(w), torch.stack([binarizer(each) for each in w]))


@every_weight
def test_equal_weights_give_finite_values_and_gradients(spec):
    binarizer = build_weight_binarizer(spec, 2)
    for value in (0.0, 0.3):
        w = torch.full((2, 5), value, requires_grad=True)
        y = binarizer(w)
        y.sum().backward()
        assert y.isfinite().all() and w.grad.isfinite().all()


@pytest.mark.parametrize('spec', ['ede', 'reste', 'fda'])
def test_a_schedule_starts_in_a_model_that_is_built_without_memory(spec):
    with torch.device('meta'):
        conv = BinaryConv2d(4, 6, 3, sign=spec)
    conv.load_state_dict(BinaryConv2d(4, 6, 3).state_dict(), assign=True)
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad.abs().sum() > 0
