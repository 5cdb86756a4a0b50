"""Tensors in nested arguments and results."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists, dicts and known data classes, in order."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
