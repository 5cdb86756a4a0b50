"""Tensors in nested arguments and results."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists, dicts and known data classes, in order."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def tensors_inside(tree: Any) -> list[Tensor]:
    """Return :func:`tensors_in`, and also the tensors in the attributes of other objects.

    Such objects are the data samples of OpenMMLab, and data classes that torch does not know.
    """
    found: list[Tensor] = []
    seen: dict[int, Any] = {}  # objects, so that no other one gets the id of one of them
    todo = [tree]
    while todo:
        leaves = tree_leaves(todo.pop(0))
        found += [x for x in leaves if isinstance(x, Tensor)]
        for x in leaves:
            inside = getattr(x, '__dict__', None)
            if isinstance(x, (Tensor, nn.Module)) or not isinstance(inside, dict) or id(x) in seen:
                continue
            seen[id(x)] = x
            todo.append(inside)
    return found
