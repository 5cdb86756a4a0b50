"""Small networks that become binary, and what reports say of their layers."""

import torch
from torch import nn


def signs_of(x):
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


def why(report):
    return {layer.name: layer.why for layer in report}


def names(layers):
    return [layer.name for layer in layers]


class Net(nn.Module):
    """A network of three layers; tests vary the middle one."""

    def __init__(self, *middle):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.middle = nn.Sequential(*middle)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.middle(self.first(x)).mean((2, 3)))


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.Linear(8, 4),
    )
