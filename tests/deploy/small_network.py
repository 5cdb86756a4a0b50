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


def load(path):
    """Load its state dict from a packed file."""
    return load_packed(path, network()).state_dict()
