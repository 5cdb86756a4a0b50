"""Untrained networks with the value ranges of trained networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def lifelike(model: nn.Module, x: Tensor, seed: int = 0) -> nn.Module:
    """Give ``model`` parameters as if trained, so that no two copies are equal by chance.

    Shifts, mixes, slopes and the affines of norms are drawn at random. Weights become
    signs (temperature 0). Norms take their statistics from ``x``.

    Args:
        model: Network; changed in place.
        x: At least two images ``(N, C, H, W)``.
        seed: Seed of the random values. Default 0.

    Returns:
        ``model``, in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(parameter: Tensor, low: float, high: float) -> None:
        values = torch.rand(parameter.shape, generator=generator, dtype=torch.float32, device='cpu')
        parameter.copy_(low + (high - low) * values)

    norms = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'shift' in name:
                draw(parameter, -0.5, 0.5)
            elif name.endswith('mix'):
                draw(parameter, 0, 1)
        for module in model.modules():
            if isinstance(module, nn.PReLU):
                draw(module.weight, 0, 0.5)
            elif isinstance(module, nn.BatchNorm2d):
                draw(module.weight, 0.5, 1.5)
                draw(module.bias, -0.5, 0.5)
                norms.append((module, module.momentum))
                module.momentum = 1.0
        for name, buffer in model.named_buffers():
            if name.endswith('temperature'):
                buffer.zero_()
        model.train()
        model(x)
        for norm, momentum in norms:
            norm.momentum = momentum
    model.eval()
    return model
