"""PReLU against torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmesbnn import native
from mmesbnn.binary import RPReLU, prelus, use_native
from mmesbnn.binary.prelus import ChannelPReLU, prelu
from tests.binary.operators import assert_batched_gradients, with_kernels
from tests.compiled import TELLS_EXPORT, compiled


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def pair(channels):
    theirs = nn.PReLU(channels).double()
    with torch.no_grad():
        theirs.weight.uniform_(-1, 1)
    ours = ChannelPReLU(channels).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize('channels_last', [False, True])
def test_values_and_gradients_of_both_orders_are_torchs(channels_last):
    x = double(2, 3, 4, 5)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    u, v = double(2, 2, 3, 4, 5)
    results = []
    for layer in pair(3):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        leaves = (leaf, layer.weight)
        first = torch.autograd.grad(y, leaves, u, create_graph=True)
        second = torch.autograd.grad((first[0] * v).sum() + first[1].sum(), leaves)
        results.append((y, *first, *second))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_gradients_at_0_are_torchs():
    for layer in pair(3):
        x = torch.zeros(1, 3, 1, 2, dtype=torch.float64, requires_grad=True)
        through_x, through_slope = torch.autograd.grad(layer(x).sum(), (x, layer.weight))
        assert torch.equal(through_x, layer.weight.detach().view(3, 1, 1).expand(1, 3, 1, 2))
        assert not through_slope.any()


def test_the_composed_form_has_the_same_gradients(monkeypatch):
    monkeypatch.setattr(prelus, 'is_composed', lambda: True)
    values = torch.tensor([-2, -1, 0, 0.5, torch.inf], dtype=torch.float64, requires_grad=True)
    slope = torch.tensor([0.25], dtype=torch.float64, requires_grad=True)
    results = [
        (y, *torch.autograd.grad(y, (values, slope), torch.ones_like(y)))
        for y in (prelu(values, slope), F.prelu(values, slope))
    ]
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


def test_the_compiled_form_is_one_operator_with_the_same_gradients():
    values = torch.tensor([[-2, -1, 0], [0.5, torch.inf, 3]], dtype=torch.float64)
    values.requires_grad_()
    slope = torch.tensor([0.25, 0.5, -1], dtype=torch.float64, requires_grad=True)
    whole, operators = compiled(prelu)
    results = [
        (y, *torch.autograd.grad(y, (values, slope), torch.ones_like(y)))
        for y in (whole(values, slope), F.prelu(values, slope))
    ]
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)
    assert ('aten._prelu_kernel.default' in operators) == TELLS_EXPORT


def test_a_slope_of_any_shape():
    x, slope = double(2, 3, 4).requires_grad_(), double(4).requires_grad_()
    u = double(2, 3, 4)
    got = torch.autograd.grad(prelu(x, slope), (x, slope), u)
    expected = torch.autograd.grad(F.prelu(x.mT, slope).mT, (x, slope), u)
    torch.testing.assert_close(got, expected)


def test_a_frozen_slope_or_input_gets_no_gradient():
    ours, theirs = pair(3)
    x, u = double(2, 3, 4, 5), double(2, 3, 4, 5)
    for layer in (ours, theirs):
        layer(x).backward(u)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    ours.weight.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    ours(leaf).backward(u)
    torch.testing.assert_close(leaf.grad, u * torch.where(x > 0, 1.0, ours.weight.view(3, 1, 1)))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_dtypes_under_autocast_are_torchs(dtype):
    ours, theirs = (layer.float() for layer in pair(3))
    x = torch.randn(2, 3, 4, 5).to(dtype)
    with torch.autocast('cpu', torch.bfloat16):
        got, expected = ours(x), theirs(x)
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected)
    got.sum().backward()
    assert ours.weight.grad.dtype == torch.float32


def test_a_slope_of_a_wider_dtype_widens_the_result():
    x, slope = torch.randn(2, 3).bfloat16(), torch.rand(3, requires_grad=True)
    y = prelu(x, slope)
    assert y.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(y, prelu(x, slope))


def test_only_the_input_and_the_slope_are_kept():
    layer, saved = ChannelPReLU(3), []
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        layer(x)
    assert {t.untyped_storage().data_ptr() for t in saved} == {
        t.untyped_storage().data_ptr() for t in (x, layer.weight)
    }


@pytest.mark.skipif(not native.available(), reason='the native kernels are not compiled')
@pytest.mark.parametrize('shape', [(3, 1, 1), (1, 3, 1, 1)])
def test_native_gradients_are_the_same(shape, monkeypatch):
    called = []

    def recorded(*args, **kwargs):
        called.append(1)
        return native.prelu_gradients(*args, **kwargs)

    monkeypatch.setattr(prelus, 'prelu_gradients', recorded)
    leaves = [torch.randn(size).requires_grad_() for size in ((2, 3, 4, 5), shape)]
    upstream, results = torch.randn(2, 3, 4, 5), []
    for on in (False, True):
        before = use_native(on)
        try:
            results.append(torch.autograd.grad(prelu(*leaves), leaves, upstream))
            # a gradient that is differentiated again is torch's
            torch.autograd.grad(prelu(*leaves), leaves, upstream, create_graph=True)
        finally:
            use_native(before)
    assert called == [1]
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('layer', [RPReLU(4), ChannelPReLU(4)])
def test_gradients_can_be_computed_in_batches(layer):
    assert_batched_gradients(layer, torch.randn(2, 4, 3, 3), *layer.parameters())


@pytest.mark.skipif(not native.available(), reason='the native kernels are not compiled')
def test_the_kernels_leave_tensors_without_values_to_torch():
    with FakeTensorMode():
        layer, x = ChannelPReLU(4), torch.randn(2, 4, 3, 3, requires_grad=True)
        with_kernels(lambda: layer(x).sin().sum().backward())
    assert x.grad.shape == x.shape
    assert layer.weight.grad.shape == (4,)
