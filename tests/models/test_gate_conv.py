"""Convolution of squeeze-excite against torch's."""

import pytest
import torch
from torch import nn

from mmesbnn.models.layers.gate_conv import GateConv2d, gate_conv
from mmesbnn.models.layers.minmax import MinMaxConv2d


def pair(**options):
    ours = GateConv2d(8, 4, 1, **options).double()
    theirs = nn.Conv2d(8, 4, 1, **options).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize('groups', [1, 2])
def test_values_and_gradients_are_torchs(groups):
    x, u, v = (torch.randn(3, c, 1, 1, dtype=torch.float64) for c in (8, 4, 8))
    results = []
    for layer in pair(groups=groups):
        leaf = x.clone().requires_grad_()
        leaves = (leaf, layer.weight, layer.bias)
        y = layer(leaf)
        first = torch.autograd.grad(y, leaves, u, create_graph=True)
        second = torch.autograd.grad((first[0] * v).sum() + first[1].sum(), leaves[:2])
        results.append((y, *first, *second))
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('frozen', ['x', 'weight', 'bias'])
def test_a_frozen_operand_gets_no_gradient(frozen):
    layer, _ = pair()
    leaves = dict(layer.named_parameters(), x=torch.randn(3, 8, 1, 1, dtype=torch.float64))
    for name, leaf in leaves.items():
        leaf.requires_grad_(name != frozen)
    layer(leaves['x']).sum().backward()
    assert [name for name, leaf in leaves.items() if leaf.grad is None] == [frozen]


def test_autocast_gives_torchs_dtype():
    results = []
    for layer in pair():
        layer.float()
        with torch.autocast('cpu', torch.bfloat16):
            y = layer(torch.ones(3, 8, 1, 1))
        y.float().sum().backward()
        results.append((y, layer.weight.grad, layer.bias.grad))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_bits_give_a_quantised_convolution():
    assert isinstance(gate_conv(8, 4, bits=8), MinMaxConv2d)
    assert isinstance(gate_conv(8, 4), GateConv2d)
