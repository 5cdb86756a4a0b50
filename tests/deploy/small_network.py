"""A small network to pack, and the outcomes of reading its damaged files."""

import torch
from torch import nn

from mmesbnn.binary import BinaryConv2d
from mmesbnn.deploy import load_packed


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), BinaryConv2d(8, 8, 3), nn.BatchNorm2d(8)
    ).eval()


class Moody(nn.Module):
    """A network that gives other outputs each time, so no graph agrees with it."""

    times = 0

    def forward(self, x):
        self.times += 1
        return x * self.times


def load(path):
    """Load its state dict from a packed file."""
    return load_packed(path, network()).state_dict()
