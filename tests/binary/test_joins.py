"""Joined maps, also in native training."""

import pytest
import torch

from mmesbnn.binary.joins import join_channels
from tests.binary.operators import with_kernels, without_kernels
from tests.native.signs import needs_kernels


def results(parts, upstream):
    leaves = [part.clone().requires_grad_() for part in parts]
    y = join_channels(leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, upstream)


def parts(layout=torch.contiguous_format, size=5):
    return [torch.randn(2, c, size, size).contiguous(memory_format=layout) for c in (3, 3, 2)]


@needs_kernels
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('size', [5, 120])  # memory of large maps is kept
def test_maps_are_joined_as_torch_joins_them(layout, size):
    maps, upstream = parts(layout, size), torch.randn(2, 8, size, size)
    expected = torch.cat(maps, 1), *upstream.split((3, 3, 2), 1)
    for run in (with_kernels, without_kernels):
        for ours, theirs in zip(run(results, maps, upstream), expected, strict=True):
            assert torch.equal(ours, theirs)


@needs_kernels
def test_gradients_of_native_joins_lie_as_maps_do():
    for grad in with_kernels(results, parts(), torch.randn(2, 8, 5, 5))[1:]:
        assert grad.is_contiguous()


def test_a_single_map_is_itself():
    x = torch.randn(1, 2, 3, 3)
    assert join_channels([x]) is x
