"""Tensors of nested containers."""

from types import SimpleNamespace

import torch

from mmesbnn.binary.trees import tensors_in, tensors_inside


def test_tensors_are_found_in_order_and_nothing_else():
    a, b, c = torch.zeros(3, 1)
    found = tensors_in(((a, 1), {'x': [b, None], 'y': 'text'}, c))
    assert [x is y for x, y in zip(found, (a, b, c), strict=True)] == [True] * 3
    assert tensors_in(a)[0] is a
    assert tensors_in(None) == []


def test_tensors_are_also_found_in_attributes_of_objects():
    a, b, c = torch.zeros(3, 1)
    inner = SimpleNamespace(boxes=b, parts=[c], name='text')
    sample = SimpleNamespace(size=(1, 2), scores=a, inner=inner)
    inner.owner = sample
    found = tensors_inside([sample, torch.nn.Linear(1, 1), a])
    assert [id(x) for x in found] == [id(x) for x in (a, a, b, c)]
