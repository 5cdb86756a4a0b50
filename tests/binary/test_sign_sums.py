"""Norms read the sums of signs, and segments keep them."""

import copy

import pytest
import torch
from torch import nn

from mmesbnn.binary import BinaryConv2d, native_conv, recompute, recompute_elementwise, sign_sums
from mmesbnn.binary.sign_sums import SignSums
from mmesbnn.binary.signs import HardTanhSign
from mmesbnn.binary.unit_steps import shifted_conv
from tests.binary.operators import without_kernels
from tests.binary.units import Pair, Step, assert_rounding, inputs, results
from tests.native.signs import needs_kernels

pytestmark = needs_kernels


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
