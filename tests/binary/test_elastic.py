"""Binarization of probabilities, also on the native kernels."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmesbnn.binary import elastic, elastic_binarize
from tests.binary.operators import with_kernels, without_kernels
from tests.native.signs import needs_kernels


def test_elastic_binarization_by_hand():
    clip = torch.tensor(0.5)
    x = torch.tensor([-1.0, 0.0, 0.2499, 0.25, 0.2501, 0.5, 0.8, 3.0])
    expected = torch.tensor([0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5])  # half rounds to even
    assert torch.equal(elastic_binarize(x, clip), expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_elastic_binarization_has_exactly_two_values(dtype):
    x = torch.rand(1000, dtype=dtype).requires_grad_()
    clip = torch.tensor(0.37, dtype=dtype, requires_grad=True)
    assert set(elastic_binarize(x, clip).unique().tolist()) == {0, clip.item()}


def test_gradients_of_the_elastic_binarization():
    x = torch.randn(500, dtype=torch.double).requires_grad_()
    clip = torch.tensor(0.6, dtype=torch.double, requires_grad=True)
    upstream = torch.randn(500, dtype=torch.double)
    got = torch.autograd.grad(elastic_binarize(x, clip), (x, clip), upstream)
    ratio = x.detach() / 0.6
    inside = (ratio >= 0) & (ratio <= 1)
    per_entry = torch.where(inside, ratio.round() - ratio, (ratio > 1).double())
    torch.testing.assert_close(got[0], torch.where(inside, upstream, 0.0))
    torch.testing.assert_close(got[1], (per_entry * upstream).sum())


def results(x, clip, upstream):
    x, clip = (one.clone().requires_grad_() for one in (x, clip))
    y = elastic_binarize(x, clip)
    return y.detach(), *torch.autograd.grad(y, (x, clip), upstream)


@needs_kernels
@pytest.mark.parametrize('shape', [(), (1,), (1, 1, 1)])
def test_the_kernels_give_the_same(shape, monkeypatch):
    x, upstream = torch.rand(2, 3, 40, 49).softmax(-1), torch.randn(2, 3, 40, 49)
    clip = torch.full(shape, 0.04)
    expected = without_kernels(results, x, clip, upstream)
    monkeypatch.setattr(elastic, 'dorefa', None)
    found = with_kernels(results, x, clip, upstream)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=2e-7, atol=0)
    torch.testing.assert_close(found[2], expected[2], rtol=0, atol=1e-3)


@needs_kernels
@pytest.mark.parametrize('clip', [-0.5, 0.0, 1e-38, float('nan'), float('inf')])
def test_torch_computes_what_the_kernels_cannot(clip):
    x, upstream = torch.rand(3, 4), torch.randn(3, 4)
    found = [
        run(results, x, torch.tensor(clip), upstream) for run in (with_kernels, without_kernels)
    ]
    for ours, theirs in zip(*found):
        assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))


class Tagged(torch.Tensor):
    """Tensor of a subclass."""


@needs_kernels
def test_torch_computes_with_other_kinds_of_clips():
    x, clip = torch.rand(4, 5), torch.tensor(0.5)
    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(clip)
    for one in (0.5, clip.as_subclass(Tagged), fake):
        expected = without_kernels(elastic_binarize, x, one)
        found = with_kernels(elastic_binarize, x, one)
        assert type(found) is type(expected)
        assert one is fake or torch.equal(found, expected)
