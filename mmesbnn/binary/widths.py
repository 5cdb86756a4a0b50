"""Check of the width of a layer's input."""

from __future__ import annotations

from torch import Tensor, nn


def check_width(layer: nn.Module, x: Tensor, width: int, name: str, axis: int) -> None:
    """Refuse an input of another width than the layer's.

    Args:
        layer: Layer whose class the message names.
        x: Input of the layer.
        width: Number of channels or features that the layer takes.
        name: Argument or formula that gave the width.
        axis: Axis of the channels, -3 for maps and -1 for tokens.

    Raises:
        ValueError: If ``x`` has another width, or too few axes.
    """
    if x.dim() >= -axis and x.shape[axis] == width:
        return
    kind = 'channels' if axis == -3 else 'features'
    raise ValueError(
        f'{type(layer).__name__}: an input of shape {tuple(x.shape)} must have '
        f'{name}={width} {kind} at axis {axis}'
    )
