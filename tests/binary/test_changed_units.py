"""Units that a user changed, and inputs of other kinds, run on torch's operators."""

import copy

import pytest
import torch
from torch import nn

from mmesbnn.binary.weights import RealWeight
from tests.binary.units import KINDS, Step, inputs
from tests.native.signs import needs_kernels

pytestmark = needs_kernels


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


def test_of_one_value_torch_says_that_it_has_no_variance(calls):
    step = Step('plain residual')
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        step(*inputs(1, 16, 1, 1))
