"""Weights of checkpoints in networks."""

import pytest
import torch
from torch import nn

from mmesbnn.project import InputError, load_state


class Versioned(nn.Linear):
    """Layer that reads entries without a version as those of its oldest form."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        assert metadata.get('version') == 2
        super()._load_from_state_dict(state, prefix, metadata, *args)


def test_versions_of_modules_do_not_get_lost():
    first, second = (nn.Sequential(Versioned(2, 2)) for _ in range(2))
    load_state(second, dict(state_dict=first.state_dict()), 'net.pth')
    assert torch.equal(second[0].weight, first[0].weight)


def test_a_network_without_values():
    state = nn.Linear(2, 2).state_dict()
    with pytest.raises(InputError, match=r'net.pth cannot .* its weight is on the device meta'):
        load_state(nn.Linear(2, 2, device='meta'), state, 'net.pth')
