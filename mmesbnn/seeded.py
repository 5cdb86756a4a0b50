"""Random numbers that follow from a seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def drawn(shape: Sequence[int], seed: int) -> Tensor:
    """Draw normal noise on the CPU in float32.

    Draws of another dtype, or on another device, would be others for the same seed, so torch's
    defaults do not count.

    Args:
        shape: Shape of the result.
        seed: Seed.
    """
    generator = torch.Generator('cpu').manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device='cpu')
