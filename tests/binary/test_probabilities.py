"""Binary probabilities of attention, also as one native step."""

from functools import partial

import pytest
import torch
from torch import nn

from mmesbnn.binary import probabilities, sign
from mmesbnn.binary.elastic import ElasticBinarizer
from mmesbnn.binary.probabilities import binary_probabilities
from tests.binary.operators import count_forwards, with_kernels, without_kernels
from tests.native.signs import needs_kernels


def operands(depth=16, tokens=9, keys=5):
    shapes = ((2, 3, tokens, depth), (2, 3, keys, depth))
    return [sign(torch.randn(shape)).requires_grad_() for shape in shapes]


def run(q, k, bias=None, binarizer=None, clip=0.2):
    clip = torch.tensor(clip, dtype=q.dtype, requires_grad=True)
    y = binary_probabilities(q, k, q.shape[-1] ** 0.5, bias, binarizer or ElasticBinarizer(), clip)
    upstream = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).sin()
    return y.detach(), *torch.autograd.grad(y, (q, k, clip), upstream)


class Doubled(nn.Module):
    """Another binarizer."""

    def forward(self, x, clip):
        return 2 * x * clip


@pytest.fixture
def native_calls(monkeypatch):
    return count_forwards(monkeypatch, probabilities._Probabilities)


def test_probabilities_by_hand():
    q = torch.tensor([1.0, 1, 1, 1]).view(1, 1, 1, 4)
    k = torch.stack([torch.ones(4), -torch.ones(4)]).view(1, 1, 2, 4)
    # scores of 2 and -2 have the probabilities 0.982 and 0.018
    for clip, expected in ((0.5, [0.5, 0]), (0.03, [0.03, 0.03])):
        y = binary_probabilities(q, k, 2.0, None, ElasticBinarizer(), torch.tensor(clip))
        torch.testing.assert_close(y.flatten(), torch.tensor(expected))


@needs_kernels
@pytest.mark.parametrize('depth', [1, 4, 16, 64])
@pytest.mark.parametrize(('tokens', 'keys'), [(9, 5), (1, 1), (70, 33)])
def test_the_kernels_give_the_same(depth, tokens, keys, native_calls):
    given = operands(depth, tokens, keys)
    expected = without_kernels(run, *given)
    assert not native_calls
    found = with_kernels(run, *given)
    assert native_calls
    assert torch.equal(found[0], expected[0])
    wide = without_kernels(run, *(one.detach().double().requires_grad_() for one in given))
    for ours, theirs in zip(found[1:], wide[1:]):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-4)


@needs_kernels
def test_what_runs_on_torchs_operators(native_calls):
    hooked = ElasticBinarizer()
    hooked.register_forward_hook(lambda *_: None)
    for depth, more in (
        (12, {}),  # its root is no power of two
        (8, {}),
        (16, dict(bias=torch.randn(9, 5))),
        (16, dict(binarizer=hooked)),
        (16, dict(binarizer=Doubled())),
        (16, dict(clip=-0.5)),
    ):
        compute = partial(run, *operands(depth), **more)
        for ours, theirs in zip(with_kernels(compute), without_kernels(compute)):
            torch.testing.assert_close(ours, theirs)
    assert not native_calls
