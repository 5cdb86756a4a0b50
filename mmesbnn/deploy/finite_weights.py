"""A network is only exported with numbers as weights."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import shorten
from .manifest import ExportError


def check_weights(network: nn.Module) -> None:
    """Check that no weight or statistic of a network is NaN or infinite.

    Raises:
        ExportError: If one is; it names the first.
    """
    for key, value in network.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            name = shorten(key, 100)
            raise ExportError(f'{name} of the network holds NaN or infinity')
