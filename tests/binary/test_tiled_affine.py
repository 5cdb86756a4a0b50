"""Affine of a tiled map against the composed formula."""

import pytest
import torch

from mmesbnn.binary.tiled_affine import tiled_affine
from tests.binary.es_reference import assert_same, double


def composed(x, scale, shift):
    y = torch.cat([x.to(scale.dtype)] * (len(scale) // x.shape[1]), 1)
    return torch.addcmul(shift.view(1, -1, 1, 1), y, scale.view(1, -1, 1, 1)).to(x.dtype)


@pytest.mark.parametrize('copies', [1, 4])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_the_composed_formula(copies, layout):
    leaves = [double(2, 3, 4, 5), double(3 * copies), double(3 * copies)]
    u, v = double(2, 3 * copies, 4, 5), double(2, 3, 4, 5)
    results = []
    for function in (tiled_affine, composed):
        x, scale, shift = (leaf.clone().requires_grad_() for leaf in leaves)
        y = function(x.contiguous(memory_format=layout), scale, shift)
        first = torch.autograd.grad(y, (x, scale, shift), u, create_graph=True)
        second = torch.autograd.grad((first[0] * v).sum() + first[1].sum(), (x, scale))
        results.append((y, *first, *second))
    for got, expected in zip(*results, strict=True):
        assert_same(got, expected)


def test_a_map_of_low_precision_meets_an_affine_of_float32():
    x, u = (torch.randn(2, c, 4, 4).bfloat16() for c in (3, 12))
    scale, shift = torch.randn(12), torch.randn(12)
    results = []
    for function in (tiled_affine, composed):
        leaves = [leaf.clone().requires_grad_() for leaf in (x, scale, shift)]
        y = function(*leaves)
        assert y.dtype == torch.bfloat16
        results.append((y, *torch.autograd.grad(y, leaves, u)))
    got, expected = results
    assert torch.equal(got[0], expected[0])
    for a, b in zip(got[1:], expected[1:], strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('frozen', range(3))
def test_a_frozen_operand_gets_no_gradient(frozen):
    leaves = [torch.randn(2, 3, 4, 5), torch.randn(12), torch.randn(12)]
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(i != frozen)
    tiled_affine(*leaves).sum().backward()
    assert [leaf.grad is None for leaf in leaves] == [i == frozen for i in range(3)]
