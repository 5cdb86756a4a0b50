"""Checks of what layers are called with.

Torch broadcasts an input of width 1 over all channels, and names an operator rather than the layer
when shapes don't fit; so layers look first. Shapes are plain integers to ``torch.compile`` and
``torch.func``. To ``torch.jit.trace`` they are part of the graph, so it is left alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_maps(layer: nn.Module, x: Tensor, channels: int, name: str = 'the input') -> None:
    """Refuse what is no floating tensor ``(N, channels, H, W)``.

    Args:
        layer: Who asks, for the message.
        x: What it was given.
        channels: Width of the second axis.
        name: What to call it in the message. Default 'the input'.

    Raises:
        TypeError: If it is no tensor, or one of another kind than floating numbers.
        ValueError: If it has another shape.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined]  # not listed, but documented
        return
    if not (_is_floating(x) and x.dim() == 4 and x.shape[1] == channels):
        _refuse(layer, x, f'(N, {channels}, H, W)', name)


def check_tokens(
    layer: nn.Module, x: Tensor, channels: int, dims: int | None = None, name: str = 'the input'
) -> None:
    """Refuse what is no floating tensor ``(..., channels)``.

    Args:
        layer: Who asks, for the message.
        x: What it was given.
        channels: Width of the last axis.
        dims: Number of axes, 3 for ``(N, L, channels)``. Default None, 1 or more.
        name: What to call it in the message. Default 'the input'.

    Raises:
        TypeError: If it is no tensor, or one of another kind than floating numbers.
        ValueError: If it has another shape.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined]  # not listed, but documented
        return
    fits = _is_floating(x) and x.dim() == (dims or max(x.dim(), 1)) and x.shape[-1] == channels
    if not fits:
        _refuse(layer, x, f'(N, L, {channels})' if dims else f'(..., {channels})', name)


def check_channels(layer: nn.Module, x: Tensor, channels: int, last: bool) -> None:
    """:func:`check_tokens` if the channel is the last axis, else :func:`check_maps`."""
    (check_tokens if last else check_maps)(layer, x, channels)


def _is_floating(x: Tensor) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _refuse(layer: nn.Module, x: Tensor, shape: str, name: str) -> None:
    rule = f'{type(layer).__name__}: {name} must be a floating tensor of shape {shape}'
    if not isinstance(x, Tensor):
        raise TypeError(f'{rule}, not a {type(x).__name__}')
    error = ValueError if _is_floating(x) else TypeError
    raise error(f'{rule}, not {str(x.dtype).removeprefix("torch.")} of shape {tuple(x.shape)}')
