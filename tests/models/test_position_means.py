"""Means of squeeze-excite against torch's."""

import pytest
import torch
from torch import nn

from mmesbnn.models.layers.float_layers import average_pool
from mmesbnn.models.layers.position_means import pooled_mean, position_mean


@pytest.mark.parametrize('size', [(4, 6), (5, 6), (4, 7)])
@pytest.mark.parametrize('pool', [average_pool(), nn.Identity()])
def test_values_and_gradients_are_torchs(size, pool):
    x, u = torch.randn(2, 3, *size, dtype=torch.float64), torch.randn(2, 3, 1, 1).double()
    results = []
    for function in (lambda x: pooled_mean(x, pool), lambda x: pool(x).mean((2, 3), keepdim=True)):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        results.append((y, *torch.autograd.grad(y, leaf, u)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_a_mean_of_low_precision_is_rounded_once():
    x = (1000 * torch.rand(2, 3, 8, 8)).bfloat16().requires_grad_()
    y = position_mean(x)
    assert torch.equal(y, x.double().mean((2, 3), keepdim=True).bfloat16())
    y.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 1 / 64))
