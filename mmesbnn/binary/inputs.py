"""Checks of the inputs of layers.

Without a check, torch broadcasts an input of width 1 over all channels. For other wrong shapes it
names an operator and not the layer. ``torch.compile`` and ``torch.func`` see shapes as plain
integers, so the checks work there, too. ``torch.jit.trace`` would record shapes in its graph, and
``torch.fx`` has no shapes, so the checks do nothing while these run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import Proxy


def check_maps(layer: nn.Module, x: Tensor, channels: int, name: str = 'the input') -> None:
    """Raise an error if ``x`` is not a floating tensor ``(N, channels, H, W)``.

    Args:
        layer: Layer that reads ``x``, for the message.
        x: Input to check.
        channels: Width of the second axis.
        name: Name of ``x`` in the message. Default 'the input'.

    Raises:
        TypeError: If ``x`` is not a tensor of floating numbers.
        ValueError: If ``x`` has another shape.
    """
    if is_traced(x):
        return
    if not (_is_floating(x) and x.dim() == 4 and x.shape[1] == channels):
        _refuse(layer, x, f'(N, {channels}, H, W)', name)


def check_tokens(
    layer: nn.Module, x: Tensor, channels: int, dims: int | None = None, name: str = 'the input'
) -> None:
    """Raise an error if ``x`` is not a floating tensor ``(..., channels)``.

    Args:
        layer: Layer that reads ``x``, for the message.
        x: Input to check.
        channels: Width of the last axis.
        dims: Number of axes, 3 for ``(N, L, channels)``. Default None: 1 or more.
        name: Name of ``x`` in the message. Default 'the input'.

    Raises:
        TypeError: If ``x`` is not a tensor of floating numbers.
        ValueError: If ``x`` has another shape.
    """
    if is_traced(x):
        return
    fits = _is_floating(x) and x.dim() == (dims or max(x.dim(), 1)) and x.shape[-1] == channels
    if not fits:
        _refuse(layer, x, f'(N, L, {channels})' if dims else f'(..., {channels})', name)


def check_channels(layer: nn.Module, x: Tensor, channels: int, last: bool) -> None:
    """Call :func:`check_tokens` if the channel is the last axis, else :func:`check_maps`."""
    (check_tokens if last else check_maps)(layer, x, channels)


def is_traced(x: Tensor) -> bool:
    """Return whether a trace is recorded, in which shapes are not known or not checked."""
    # not listed, but documented
    return torch.jit.is_tracing() or isinstance(x, Proxy)  # type: ignore[attr-defined]


def _is_floating(x: Tensor) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _refuse(layer: nn.Module, x: Tensor, shape: str, name: str) -> None:
    rule = f'{type(layer).__name__}: {name} must be a floating tensor of shape {shape}'
    if not isinstance(x, Tensor):
        raise TypeError(f'{rule}, not a {type(x).__name__}')
    error = ValueError if _is_floating(x) else TypeError
    raise error(f'{rule}, not {str(x.dtype).removeprefix("torch.")} of shape {tuple(x.shape)}')
