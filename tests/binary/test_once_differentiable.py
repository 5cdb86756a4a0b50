"""Gradients of native steps cannot be differentiated, and are not taken for constants."""

import pytest
import torch

from mmesbnn.binary import BinaryConv2d, Expansion, TiledBatchNorm2d, binary_conv2d, use_native
from mmesbnn.binary.recompute import recompute_segment
from mmesbnn.binary.unit_steps import normalized
from mmesbnn.models.layers.branches import PoolBranches
from mmesbnn.models.layers.recoupled_conv import RecoupledConv
from tests.native.signs import needs_kernels

pytestmark = needs_kernels


@pytest.fixture(autouse=True)
def native():
    before = use_native()
    yield
    use_native(before)


def signed_conv(x):
    return BinaryConv2d(8, 8, 1)(x)


def conv_on_bits(x):
    return binary_conv2d(x, torch.ones(8, 8, 1, 1, requires_grad=True))


def norm(x):
    return normalized(x, TiledBatchNorm2d(8))


def segment(x):
    conv = BinaryConv2d(8, 8, 1)
    return recompute_segment(conv, x, [conv])


def unit(x):
    options = dict(shrink=True, se_ratio=1, se_bits=None, conv={}, norm={})
    return RecoupledConv(8, 3, expansion=Expansion(), **options)(x)


def branches(x):
    y = x.flatten(2).transpose(1, 2).contiguous()
    return PoolBranches(8, [3])(y, y, (6, 6))


@pytest.mark.parametrize('step', [signed_conv, conv_on_bits, norm, segment, unit, branches])
def test_a_second_derivative_is_refused(step):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6).sign().requires_grad_()
    y = step(x)
    weights = torch.linspace(0, 1, y.numel()).view_as(y)
    for loss in ((y * weights).sum(), y.square().sum()):
        (first,) = torch.autograd.grad(loss, x, retain_graph=True)
        (again,) = torch.autograd.grad(loss, x, create_graph=True)
        assert torch.equal(again, first)
        with pytest.raises(RuntimeError, match='once_differentiable'):
            again.square().sum().backward()
