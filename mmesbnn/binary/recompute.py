"""Selective recomputation: store the convolutions' outputs, recompute the rest.

A binary network has about a dozen element-wise operations on full-precision maps between
two convolutions. They are cheap to recompute but expensive to store; convolutions are the
opposite.

The flag of :func:`is_recomputing` is global in the process, because ``torch.compile`` does
not support a thread-local flag. Two threads must therefore not train with recomputation at
the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from .functional import BINARY_CONV2D, BINARY_LINEAR

_SAVED = (BINARY_CONV2D, BINARY_LINEAR, torch.ops.aten.convolution.default)

_recomputing = False


def is_recomputing() -> bool:
    """Return True while a forward runs a second time, for the backward pass.

    A layer that updates running statistics must do so in the first pass only.
    """
    return _recomputing


class _Recomputation(TorchDispatchMode):
    """Mode that wraps ``inner`` and sets the flag of :func:`is_recomputing`."""

    def __init__(self, inner: TorchDispatchMode) -> None:
        super().__init__()
        self.inner = inner

    def __enter__(self) -> _Recomputation:
        global _recomputing
        self.inner.__enter__()
        _recomputing = True
        return self

    def __exit__(self, *error: Any) -> None:
        global _recomputing
        _recomputing = False
        self.inner.__exit__(*error)


def _policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    if op in _SAVED:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _contexts() -> tuple[Any, Any]:
    first, second = create_selective_checkpoint_contexts(_policy)
    return first, _Recomputation(second)


def recompute_elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run ``function(x)``; store only the outputs of convolutions and binary linear layers.

    The result and the gradients are those of ``function(x)``. All other operations run
    again in the backward pass.

    Args:
        function: Function from one tensor to one tensor.
        x: Argument of the function.
    """
    return checkpoint(function, x, use_reentrant=False, context_fn=_contexts)
