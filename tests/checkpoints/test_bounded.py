"""Constructors get only the memory that the weights of a file need."""

import pytest
import torch
from torch import nn

from mmesbnn.checkpoints import CheckpointError, bounded
from mmesbnn.checkpoints.bounded import bounded_build, size_of
from mmesbnn.checkpoints.limits import SPARE

HALF = SPARE // 8  # floats that take half of the spare memory


@pytest.mark.parametrize(
    'ask',
    [
        lambda: torch.empty(2**50),
        lambda: torch.zeros(2**25, 2**25),
        lambda: torch.randn(2**50, generator=torch.Generator()),
        lambda: torch.randperm(2**50),
        lambda: torch.arange(2**50),
        lambda: torch.full((2**50,), 1.0),
        lambda: torch.ones(1).repeat(2**50),
        lambda: torch.ones(1).expand(2**50).contiguous(),
        lambda: torch.ones(2**15)[:, None] - torch.ones(2**15),
        lambda: torch.cat([torch.ones(1).expand(2**30)] * 64),
        lambda: torch.stack(torch.meshgrid(torch.ones(2**15), torch.ones(2**15), indexing='ij')),
        lambda: [torch.empty(HALF) for _ in range(3)],
        lambda: list(torch.ones(1).expand(2**26)),
        lambda: torch.ones(1).expand(2**26).split(2),
        lambda: nn.Linear(2**20, 2**20),
        lambda: nn.Embedding(2**40, 8),
    ],
)
def test_too_much_is_refused_before_it_is_taken(ask):
    with pytest.raises(CheckpointError, match='more than 268435456 bytes'), bounded_build(0):
        ask()


def test_many_small_layers_are_counted(monkeypatch):
    monkeypatch.setattr(bounded, 'SPARE', 2**22)
    with pytest.raises(CheckpointError, match='more than 4194304 bytes'), bounded_build(0):
        [nn.Linear(1, 1) for _ in range(2**14)]


def test_operations_without_memory_are_counted():
    weight = torch.ones(1)
    with bounded_build(0):
        [weight.zero_() for _ in range(2**14)]  # large networks have thousands
    with pytest.raises(CheckpointError, match='more than 268435456 bytes'), bounded_build(0):
        [weight.zero_() for _ in range(2**16)]


def test_rows_of_a_large_tensor_are_counted_as_rows():
    with bounded_build(0):
        assert len(list(torch.zeros(2, 2**20))) == 2
        assert len(torch.zeros(2, 2**20).split(2**19, dim=1)) == 2


def test_good_networks_are_built_and_are_the_same():
    def build():
        torch.manual_seed(0)
        rates = [rate.item() for rate in torch.linspace(0, 0.5, 4)]
        layers = [nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.Linear(256, 256)]
        network = nn.Sequential(*layers, *map(nn.Dropout, rates))
        nn.init.orthogonal_(network[2].weight)
        return network.state_dict()

    plain = build()
    with bounded_build(size_of(plain.values())):
        counted = build()
    assert all(torch.equal(plain[key], counted[key]) for key in plain)


def test_the_limit_grows_with_the_weights_and_by_max_bytes():
    with bounded_build(2 * HALF):
        torch.empty(2 * HALF), torch.empty(HALF)
    with bounded_build(0, max_bytes=4 * SPARE):
        torch.empty(2 * HALF), torch.empty(HALF)
    with pytest.raises(CheckpointError), bounded_build(0, max_bytes=1):
        torch.empty(2 * HALF), torch.empty(HALF)
