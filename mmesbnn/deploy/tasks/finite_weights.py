"""Check that the weights of an exported network are finite."""

from __future__ import annotations

from torch import nn

from ...checkpoints import CheckpointError, check_finite
from ..runtime.manifest import ExportError


def check_weights(network: nn.Module) -> None:
    """Check that no weight or statistic of a network is NaN or infinite.

    Raises:
        ExportError: If a value is NaN or infinite; the message names the first.
    """
    try:
        check_finite(network.state_dict())
    except CheckpointError as error:
        raise ExportError(f'the network is not exported: {error}') from error
