"""Means of squeeze-excite against torch's."""

import pytest
import torch

from mmesbnn.binary.position_means import position_mean


@pytest.mark.parametrize('size', [(4, 6), (5, 6), (4, 7)])
def test_values_and_gradients_are_torchs(size):
    x, u = torch.randn(2, 3, *size, dtype=torch.float64), torch.randn(2, 3, 1, 1).double()
    results = []
    for function in (position_mean, lambda x: x.mean((2, 3), keepdim=True)):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        results.append((y, *torch.autograd.grad(y, leaf, u)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('size', [(4, 6), (16, 20), (7, 9)])
def test_values_do_not_depend_on_whether_gradients_are_wanted(size):
    x = torch.randn(2, 32, *size)
    assert torch.equal(position_mean(x.clone().requires_grad_()), position_mean(x))


def test_a_mean_of_low_precision_is_rounded_once():
    x = (1000 * torch.rand(2, 3, 8, 8)).bfloat16().requires_grad_()
    y = position_mean(x)
    assert torch.equal(y, x.double().mean((2, 3), keepdim=True).bfloat16())
    y.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 1 / 64))


def test_one_pixel_is_its_mean():
    x = torch.randn(2, 3, 1, 1, requires_grad=True)
    assert torch.equal(position_mean(x), x)
    assert torch.equal(torch.autograd.grad(position_mean(x).sum(), x)[0], torch.ones_like(x))
