"""Steps of training that can run on the native kernels."""

from __future__ import annotations

import operator
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from .expansion import is_channels_last
from .native_mode import is_native
from .tracing import is_seen, is_transformed

_Layer = TypeVar('_Layer', bound=nn.Module)

_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')

#: Hooks of all modules. Torch has a function for them from 2.6 on only.
_global_hooks = operator.attrgetter(*(f'_global{name}' for name in _HOOKS))


def _has_global_hook() -> bool:
    return any(_global_hooks(nn.modules.module))


def is_plain(module: nn.Module) -> bool:
    """Return whether nothing but the ``forward`` of its class runs when a module is called."""
    # torch.compile can trace this; it cannot trace operator.attrgetter
    return 'forward' not in module.__dict__ and not any(getattr(module, name) for name in _HOOKS)


def is_own(layer: nn.Module, kind: type[_Layer]) -> TypeGuard[_Layer]:
    """Return whether a layer is of a kind, not of a subclass, and plain."""
    return type(layer) is kind and is_plain(layer)


def are_float32(*modules: nn.Module) -> bool:
    """Return whether all parameters of modules are of float32."""
    return all(x.dtype == torch.float32 for module in modules for x in module.parameters())


def trains_natively(*maps: Tensor, dims: int = 4) -> bool:
    """Return whether a step of training with these maps can run on the native kernels.

    They must all have the layout of the first one.

    Args:
        *maps: Maps ``(N, C, H, W)``, or tensors of ``dims`` axes.
        dims: Number of axes. Default 4.
    """
    if not is_native() or is_transformed() or is_seen(*maps) or not torch.is_grad_enabled():
        return False
    if torch.is_autocast_enabled('cpu') or _has_global_hook():
        return False
    for x in maps:
        if x.is_inference():  # autograd cannot store it, and the steps store their input
            return False
        if not x.is_cpu or x.dtype != torch.float32 or x.dim() != dims or x.numel() == 0:
            return False
    layout = layout_of(maps[0])
    return all(x.is_contiguous(memory_format=layout) for x in maps)


def trains_tokens_natively(*tokens: Tensor) -> bool:
    """Return :func:`trains_natively` for contiguous tokens ``(N, L, C)``; False for others."""
    return trains_natively(*tokens, dims=3)


def layout_of(x: Tensor) -> torch.memory_format:
    """Return the layout of a map: contiguous if it is, else channels last."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format
