"""Signs of queries, keys and values, also in native training."""

import pytest
import torch
from torch import nn

from mmesbnn.binary import RSign, head_signs
from mmesbnn.binary.head_signs import signs_of_heads
from tests.binary.operators import count_forwards, with_kernels, without_kernels
from tests.native.signs import needs_kernels

SIGNS = ['quadratic', dict(type='hard_tanh', clip=0.7)]


def rsign(sign='quadratic'):
    layer = RSign(12, sign, channels_last=True)
    nn.init.normal_(layer.shift.bias)
    return layer


def results(x, sign, upstream):
    leaf = x.clone().requires_grad_()
    y = signs_of_heads(leaf, sign, 3)
    return y.detach(), *torch.autograd.grad(y, (leaf, sign.shift.bias), upstream)


@pytest.fixture
def native_calls(monkeypatch):
    return count_forwards(monkeypatch, head_signs._HeadSigns)


def test_heads_have_the_next_channels():
    x = torch.randn(2, 5, 12)
    y, signs = signs_of_heads(x, nn.Identity(), 3), rsign()
    assert torch.equal(y[1, 2, 4], x[1, 4, 8:])
    assert torch.equal(signs_of_heads(x, signs, 3)[0, 1, 3], signs(x)[0, 3, 4:8])


@needs_kernels
@pytest.mark.parametrize('sign', SIGNS)
def test_the_kernels_give_the_same(sign, native_calls):
    x, upstream, layer = torch.randn(2, 70, 12), torch.randn(2, 3, 70, 4), rsign(sign)
    x[0, 0] = -layer.shift.bias.detach()
    expected = without_kernels(results, x, layer, upstream)
    assert not native_calls
    found = with_kernels(results, x, layer, upstream)
    assert native_calls
    assert torch.equal(found[0], expected[0])
    for ours, theirs in zip(found[1:], expected[1:]):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@needs_kernels
def test_what_runs_on_torchs_operators(native_calls):
    x = torch.randn(2, 5, 12, requires_grad=True)
    hooked, smooth, seen = rsign(), rsign('swish'), []
    hooked.shift.register_forward_hook(lambda *_: seen.append(1))
    for sign in (hooked, smooth, nn.Identity(), rsign(dict(type='quadratic', zero=0))):
        expected = without_kernels(signs_of_heads, x, sign, 2)
        assert torch.equal(with_kernels(signs_of_heads, x, sign, 2), expected)
    with torch.no_grad():
        with_kernels(signs_of_heads, x, rsign(), 2)
    with_kernels(signs_of_heads, x.double(), rsign().double(), 2)
    with_kernels(signs_of_heads, x[:, ::2], rsign(), 2)
    assert len(seen) == 2
    assert not native_calls


@needs_kernels
@pytest.mark.parametrize('frozen', ['x', 'shift'])
def test_only_one_gradient_is_wanted(frozen):
    x, layer = torch.randn(2, 5, 12, requires_grad=frozen == 'shift'), rsign()
    layer.shift.bias.requires_grad_(frozen == 'x')
    (wanted,) = (one for one in (x, layer.shift.bias) if one.requires_grad)
    grads = [
        torch.autograd.grad(run(signs_of_heads, x, layer, 3).sum(), wanted)[0]
        for run in (with_kernels, without_kernels)
    ]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-5)
