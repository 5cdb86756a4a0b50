"""Binary operators on packed bits give what they give in floats."""

import pytest
import torch

from mmesbnn import native
from mmesbnn.binary import BinaryConv2d, BinaryLinear, native_mode, sign, use_native
from mmesbnn.models.backbones import BNext

pytestmark = pytest.mark.skipif(
    not native.available(), reason='the native kernels are not compiled'
)


@pytest.fixture
def calls(monkeypatch):
    """Enable the native kernels; record each convolution that they compute."""
    done = []
    convolve = native_mode.convolve

    def counted(*args, **kwargs):
        done.append(kwargs)
        return convolve(*args, **kwargs)

    monkeypatch.setattr(native_mode, 'convolve', counted)
    before = use_native()
    yield done
    use_native(before)


def floats(function, *args):
    before = use_native(False)
    try:
        return function(*args)
    finally:
        use_native(before)


@pytest.mark.parametrize('pad_value', [-1, 0, 1])
@torch.no_grad()
def test_convolution(calls, pad_value):
    layer = BinaryConv2d(24, 16, 3, 2, 1, groups=2, bias=True, pad_value=pad_value)
    x = torch.randn(2, 24, 9, 7)
    torch.testing.assert_close(layer(x), floats(layer, x), rtol=1e-6, atol=1e-6)
    assert len(calls) == 1


@torch.no_grad()
def test_linear(calls):
    layer, x = BinaryLinear(70, 9), torch.randn(2, 5, 70)
    torch.testing.assert_close(layer(x), floats(layer, x), rtol=1e-6, atol=1e-6)
    assert len(calls) == 1


@torch.no_grad()
def test_network(calls):
    network = BNext(arch=dict(channels=[16, 32, 64], depths=[1, 1]), tau=2).eval()
    for name, buffer in network.named_buffers():
        if name.endswith('temperature'):
            buffer.fill_(1e-9)
    x = torch.randn(2, 3, 64, 64)
    (y,), (expected,) = network(x), floats(network, x)
    # weights are +-1 and so are inputs: not even rounding differs
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    layers = [m for m in network.modules() if isinstance(m, BinaryConv2d)]
    assert len(calls) == len(layers) > 3


def test_what_is_not_exact_or_needs_gradients_runs_in_floats(calls):
    x = torch.randn(1, 8, 5, 5)
    layer = BinaryConv2d(8, 8, 3, weight_binarizer='temperature')
    with torch.no_grad():
        layer(x)  # soft weights
        assert not calls
        layer.weight_binarizer.temperature.fill_(1e-9)
        layer(x.double().float())
        assert len(calls) == 1
        layer.double()(x.double())
        layer.float()
        layer(torch.zeros_like(x))
        assert len(calls) == 2
        assert torch.equal(sign(torch.zeros(1), zero=0), torch.zeros(1))
    layer(x).sum().backward()
    assert len(calls) == 2
    assert layer.weight.grad.abs().sum() > 0


def test_it_is_off_at_first_and_returns_what_was_set():
    assert native_mode._enabled is False
    assert use_native() is False
    assert use_native(False) is True
