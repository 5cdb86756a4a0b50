"""Means of blocks of pixels are torch's; compiled, they have gradients of short code."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmesbnn.binary.block_means import block_mean
from tests.compiled import TELLS_EXPORT, compiled, exported_operators


def with_gradient(function, x):
    x = x.clone().requires_grad_()
    y = function(x)
    (grad,) = torch.autograd.grad(y, x, torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype))
    return y.detach(), grad


@pytest.mark.parametrize('size', [(4, 6), (5, 6), (3, 3)])
@pytest.mark.parametrize('ceil_mode', [False, True])
def test_values_and_gradients_are_torchs(size, ceil_mode):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = with_gradient(lambda x: F.avg_pool2d(x, 2, ceil_mode=ceil_mode), x)
    found = with_gradient(lambda x: block_mean(x, 2, ceil_mode=ceil_mode), x)
    whole, operators = compiled(lambda x: block_mean(x, 2, ceil_mode=ceil_mode))
    for got in (found, with_gradient(whole, x)):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    pools = any('avg_pool2d' in name for name in operators)
    assert pools == (size != (4, 6) or not TELLS_EXPORT)


def test_an_export_shows_the_pooling():
    class Pool(nn.Module):
        def forward(self, x):
            return block_mean(x, 2)

    assert 'aten.avg_pool2d.default' in exported_operators(Pool(), torch.randn(1, 2, 4, 4))
