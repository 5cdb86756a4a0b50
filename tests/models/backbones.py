"""Helpers for the tests of several backbones."""

import torch

from mmesbnn.binary import BinaryConv2d


def binary_convs(model):
    return [m for m in model.modules() if isinstance(m, BinaryConv2d)]


def spread(model):
    """Change every parameter, so that copies and channels differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def step(model, x):
    """Return the outputs of a forward pass, after a backward pass of unequal gradients."""
    outputs = model(x)
    generator = torch.Generator().manual_seed(7)
    loss = sum(
        (o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum() for o in outputs
    )
    loss.backward()
    return outputs
