"""Binary operators on packed bits give what they give in floats."""

import gc
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from mmesbnn.binary import (
    BinaryConv2d,
    BinaryLinear,
    ESConv2d,
    RPReLU,
    TiledBatchNorm2d,
    binary_conv2d,
    binary_linear,
    native_mode,
    recompute_elementwise,
    sign,
    use_native,
)
from mmesbnn.binary.native_mode import array_of
from mmesbnn.models.backbones import BNext
from tests.binary.operators import without_kernels
from tests.native.signs import needs_kernels

pytestmark = needs_kernels


@pytest.fixture
def calls(monkeypatch):
    """Enable the native kernels; record each convolution that they compute."""
    done = []
    for name in ('convolve', 'convolve_sums'):
        compute = getattr(native_mode, name)

        def counted(*args, compute=compute, **kwargs):
            done.append(kwargs)
            return compute(*args, **kwargs)

        monkeypatch.setattr(native_mode, name, counted)
    before = use_native()
    yield done
    use_native(before)


@pytest.mark.parametrize('pad_value', [-1, 0, 1])
@torch.no_grad()
def test_convolution(calls, pad_value):
    layer = BinaryConv2d(24, 16, 3, 2, 1, groups=2, bias=True, pad_value=pad_value)
    x = torch.randn(2, 24, 9, 7)
    torch.testing.assert_close(layer(x), without_kernels(layer, x), rtol=1e-6, atol=1e-6)
    assert len(calls) == 1


@torch.no_grad()
def test_linear(calls):
    layer, x = BinaryLinear(70, 9), torch.randn(2, 5, 70)
    torch.testing.assert_close(layer(x), without_kernels(layer, x), rtol=1e-6, atol=1e-6)
    assert len(calls) == 1


@torch.no_grad()
def test_network(calls):
    network = BNext(arch=dict(channels=[16, 32, 64], depths=[1, 1]), tau=2).eval()
    for name, buffer in network.named_buffers():
        if name.endswith('temperature'):
            buffer.fill_(1e-9)
    x = torch.randn(2, 3, 64, 64)
    (y,), (expected,) = network(x), without_kernels(network, x)
    # weights are +-1 and so are inputs: not even rounding differs
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    layers = [m for m in network.modules() if isinstance(m, BinaryConv2d)]
    assert len(calls) == len(layers) > 3


def test_what_is_not_exact_runs_in_floats(calls):
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
    x = sign(x).requires_grad_()
    with torch.no_grad():
        assert not native_mode._fits(torch.ones(0))
    assert not native_mode._fits(x)
    torch.func.grad(lambda x: layer(x).sum())(x)
    assert len(calls) == 2


class Unit(nn.Module):
    """Convolutions, strided and grouped, and a linear layer."""

    def __init__(self, pad_value=0):
        super().__init__()
        options = dict(pad_value=pad_value, weight_binarizer='plain_sign')
        self.first = BinaryConv2d(70, 24, 3, 2, 1, **options)
        self.second = BinaryConv2d(24, 16, (1, 3), padding=(0, 2), groups=2, **options)
        self.third = BinaryLinear(16, 5, weight_binarizer='plain_sign')

    def forward(self, x):
        y = self.second(self.first(x).tanh()).mean((2, 3))
        return self.third(y)


def gradients(unit, x, run=None):
    x = x.clone().requires_grad_()
    y = (run or unit)(x)
    y.square().sum().backward()
    found = [y.detach(), x.grad, *(p.grad for p in unit.parameters())]
    unit.zero_grad()
    return found


def assert_rounding(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max())


@pytest.mark.parametrize('pad_value', [-1, 0, 1])
def test_training_computes_the_same(calls, pad_value):
    torch.manual_seed(0)
    unit, x = Unit(pad_value), torch.randn(3, 70, 9, 7)
    expected = without_kernels(gradients, unit, x)
    assert not calls
    found = gradients(unit, x)
    assert len(calls) == 3
    assert torch.equal(found[0], expected[0])
    assert_rounding(found, expected)


def test_training_with_scaled_weights_differs_by_rounding(calls):
    torch.manual_seed(0)
    layer = BinaryConv2d(70, 24, 3, weight_binarizer='scaled_sign')
    x = torch.randn(3, 70, 9, 7)
    expected = without_kernels(gradients, layer, x)
    assert_rounding(gradients(layer, x), expected)
    assert len(calls) == 1


def test_recomputation_computes_the_same(calls):
    torch.manual_seed(0)
    unit, x = Unit(), torch.randn(3, 70, 9, 7)
    expected = without_kernels(gradients, unit, x)
    found = gradients(unit, x, lambda x: recompute_elementwise(unit, x))
    assert len(calls) == 3  # results are kept
    assert_rounding(found, expected)


def test_gradients_are_computed_on_bits(calls, monkeypatch):
    """Also those of what is recomputed; each wanted gradient once."""
    done = []
    for name in ('input_gradient', 'weight_gradient'):
        compute = getattr(native_mode, name)

        def counted(*args, name=name, compute=compute, **kwargs):
            done.append(name)
            return compute(*args, **kwargs)

        monkeypatch.setattr(native_mode, name, counted)
    unit, x = Unit(), torch.randn(3, 70, 9, 7)
    for run in (None, lambda x: recompute_elementwise(unit, x)):
        gradients(unit, x, run)
        assert sorted(done) == 3 * ['input_gradient'] + 3 * ['weight_gradient']
        done.clear()
    unit.first.requires_grad_(False)
    unit(x).sum().backward()  # the input of the second layer needs no gradient
    assert done == ['input_gradient', 'weight_gradient', 'weight_gradient']


@pytest.mark.parametrize('shape', [(70,), (5, 70), (2, 5, 70), (0, 70)])
def test_training_a_linear_layer_computes_the_same(calls, shape):
    torch.manual_seed(0)
    layer, x = BinaryLinear(70, 33, weight_binarizer='plain_sign'), torch.randn(shape)
    expected, found = without_kernels(gradients, layer, x), gradients(layer, x)
    assert found[0].shape == (*shape[:-1], 33)
    assert len(calls) == (x.numel() > 0)
    if x.numel():
        assert_rounding(found, expected)


def test_autograd_may_add_to_the_gradient_of_a_linear_layer(calls):
    layer, x = BinaryLinear(70, 33, weight_binarizer='plain_sign'), torch.randn(2, 5, 70)
    x.requires_grad_()
    y = layer(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert calls
    assert not y._is_view()
    assert not grad._is_view()


def test_channels_last_stays(calls):
    torch.manual_seed(0)
    layer, x = BinaryConv2d(70, 24, 3, weight_binarizer='plain_sign'), torch.randn(3, 70, 9, 7)
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    found = [layer(last), *torch.autograd.grad(layer(last).square().sum(), last)]
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in found)
    assert_rounding(found, gradients(layer, x)[:2])
    with torch.no_grad():
        assert layer(last).is_contiguous(memory_format=torch.channels_last)
    assert len(calls) == 4


def stored(run):
    """Return the numbers of bytes of what ``run`` stores for the backward pass."""
    sizes = []

    def keep(tensor):
        sizes.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sorted(sizes)


@pytest.mark.parametrize(
    ('operator', 'sizes'),
    [(binary_conv2d, ((2, 64, 9, 9), (8, 64, 1, 1))), (binary_linear, ((2, 9, 64), (8, 64)))],
)
def test_operators_store_bits(calls, operator, sizes):
    x, weight = (sign(torch.randn(size)).requires_grad_() for size in sizes)
    entries = [weight.numel(), x.numel()]
    assert without_kernels(stored, lambda: operator(x, weight)) == [4 * n for n in entries]
    scales = 4 * len(weight)
    assert stored(lambda: operator(x, weight)) == sorted([scales, *(n // 8 for n in entries)])


def test_a_second_derivative_is_refused(calls):
    layer, x = BinaryConv2d(8, 8, 1), torch.randn(1, 8, 4, 4, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        first.sum().backward()


@pytest.mark.parametrize(
    ('layer', 'shape'), [(BinaryConv2d(8, 4, 1), (1, 8, 3, 3)), (BinaryLinear(8, 4), (2, 8))]
)
def test_tensors_of_inference_mode_train_as_others_do(calls, layer, shape):
    with torch.inference_mode():
        x = torch.randn(shape)
    for source in (x, x.clone()):
        layer(source).square().sum().backward()
    expected = layer.weight.grad / 2
    layer.zero_grad()
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, expected)
    assert len(calls) == 3


def test_it_is_off_at_first_and_returns_what_was_set():
    assert native_mode._enabled is False
    assert use_native() is False
    assert use_native(False) is True


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        ('1', 'True'),
        ('0', 'False'),
        ('', 'False'),
        ('true', "NativeError: MMESBNN_NATIVE='true' in the environment must be 0 or 1"),
    ],
)
def test_the_environment_switches_it_on(value, expected):
    code = 'from mmesbnn.binary import native_mode; print(native_mode.is_native())'
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'MMESBNN_NATIVE': value},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.stdout.strip().splitlines()[-1].endswith(expected)


def test_memory_of_parameters_can_be_resized_after_a_step(calls):
    use_native(True)
    layers = [BinaryConv2d(8, 8, 3), TiledBatchNorm2d(8), RPReLU(8), ESConv2d(8, 8, 3, tau=2)]
    network = nn.Sequential(*layers, nn.Flatten(), BinaryLinear(8 * 4 * 4, 6))
    network(torch.randn(2, 8, 8, 8)).sum().backward()
    assert calls
    for name, parameter in network.named_parameters():
        assert parameter.untyped_storage().resizable(), name  # FSDP frees and fills it


@pytest.mark.parametrize(
    'values',
    [
        torch.randn(3, 4),
        nn.Parameter(torch.randn(5)),
        torch.randn(4, 3).T,
        torch.randn(2, 8, 3, 3).contiguous(memory_format=torch.channels_last),
        torch.randn(4, 6)[1:3],
        torch.arange(6).short(),
        torch.randn(3).double(),
        torch.empty(0, 3),
        torch.tensor(2.0),
    ],
)
def test_arrays_share_the_memory_of_tensors(values):
    array = array_of(values)
    assert (array == values.detach().numpy()).all()
    assert array.shape == values.shape
    assert array.dtype == values.detach().numpy().dtype
    if values.numel():
        values.detach().add_(1)
        assert (array == values.detach().numpy()).all()


def test_an_array_holds_its_tensor():
    array = array_of(torch.full((1000,), 3.0))
    gc.collect()
    torch.full((1000,), 5.0)
    assert (array == 3).all()


def test_a_negative_view_is_not_read_as_it_lies():
    view = torch.imag(torch.randn(4, dtype=torch.complex64).conj())
    assert view.is_neg()
    assert (array_of(view) == view.resolve_neg().numpy()).all()
