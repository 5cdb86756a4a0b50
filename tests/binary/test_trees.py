"""Tensors of nested containers."""

import torch

from mmesbnn.binary.trees import tensors_in


def test_tensors_are_found_in_order_and_nothing_else():
    a, b, c = torch.zeros(3, 1)
    found = tensors_in(((a, 1), {'x': [b, None], 'y': 'text'}, c))
    assert [x is y for x, y in zip(found, (a, b, c), strict=True)] == [True] * 3
    assert tensors_in(a)[0] is a
    assert tensors_in(None) == []
