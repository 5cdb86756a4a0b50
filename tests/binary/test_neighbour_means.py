"""Means of adjacent features, on the native kernels and on torch's operators."""

import pytest
import torch

from mmesbnn import native
from mmesbnn.binary import neighbour_means, use_native
from mmesbnn.binary.neighbour_means import neighbour_mean


@pytest.fixture(params=[False, True], ids=['torch', 'native'])
def kernels(request):
    if request.param and not native.available():
        pytest.skip('the native kernels are not compiled')
    before = use_native(request.param)
    yield request.param
    use_native(before)


def layouts():
    x = torch.randn(2, 5, 12)
    return {
        'contiguous': x,
        'strided': x.transpose(0, 1),
        'double': x.double(),
        'bfloat16': x.bfloat16(),
        'more axes': x[:, None],
    }


@pytest.mark.parametrize('name', layouts())
@pytest.mark.parametrize('window', [1, 4, 12])
def test_means_and_gradients(kernels, name, window, monkeypatch):
    x, calls = layouts()[name].requires_grad_(), []
    average = neighbour_means.average_neighbours

    def counted(*args, **kwargs):
        calls.append(args)
        return average(*args, **kwargs)

    monkeypatch.setattr(neighbour_means, 'average_neighbours', counted)
    y = neighbour_mean(x, window)
    grad = torch.linspace(-1, 1, y.numel()).view_as(y).to(x.dtype)
    (of_x,) = torch.autograd.grad(y, x, grad)
    parts = x.detach().double().unflatten(-1, (-1, window))
    tolerance = dict(rtol=1e-2, atol=1e-2) if x.dtype == torch.bfloat16 else dict(rtol=0, atol=1e-6)
    torch.testing.assert_close(y.double(), parts.mean(-1), **tolerance)
    expected = (grad.double() / window).repeat_interleave(window, -1)
    torch.testing.assert_close(of_x.double(), expected, **tolerance)
    assert len(calls) == (kernels and name == 'contiguous')


def test_autograd_may_add_to_the_gradient(kernels):
    if not kernels:
        pytest.skip('torch returns a view')
    x = torch.randn(2, 5, 12, requires_grad=True)
    (grad,) = torch.autograd.grad(neighbour_mean(x, 4).sum(), x)
    assert not grad._is_view()


def test_inference_uses_torch(kernels, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('called')

    monkeypatch.setattr(neighbour_means, 'average_neighbours', refuse)
    x = torch.randn(2, 5, 12)
    with torch.no_grad():
        torch.testing.assert_close(neighbour_mean(x, 3), x.unflatten(-1, (4, 3)).mean(-1))
