"""Search for layers that a network also reaches without torch's registration of modules.

A new layer in the place of such a layer would not run there: ``self.layers = [conv]`` keeps the
old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves

#: Attributes of a module in which torch registers what it has.
_REGISTERED = ('_modules', '_parameters', '_buffers')


def _held_in(value: Any) -> Iterator[nn.Module | nn.Parameter]:
    """Yield the modules and parameters in nested lists and dicts, and those of methods there."""
    for leaf in tree_leaves(value):
        owner = leaf.__self__ if isinstance(leaf, MethodType) else leaf
        if isinstance(owner, (nn.Module, nn.Parameter)):
            yield owner


def plain_references(model: nn.Module) -> dict[int, str]:
    """Map the id of each module or parameter that an ordinary attribute holds to the attribute.

    Args:
        model: The network, whose modules are searched.
    """
    return {
        id(held): f'{type(module).__name__}.{name}'
        for module in model.modules()
        for name, value in vars(module).items()
        if name not in _REGISTERED
        for held in _held_in(value)
        if held is not module  # hooks of lazy layers are their own methods
    }
