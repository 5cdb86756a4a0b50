"""Selective recomputation: store the outputs of large convolutions, recompute the rest.

A binary network has about a dozen element-wise operations on full-precision maps between
two convolutions. They are cheap to recompute but expensive to store. Convolutions are the
opposite, except those that sum few products.

The flag of :func:`is_recomputing` is global in the process, because ``torch.compile`` does
not support a thread-local flag. Two threads must therefore not train with recomputation at
the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

_CONVOLUTIONS = (BINARY_CONV2D, BINARY_LINEAR, torch.ops.aten.convolution.default)
#: An output value that sums so many products or fewer is cheaper to recompute than to store.
FEW_PRODUCTS = 256

#: Whether compiled code runs both passes in one graph, without the flag of
#: :func:`is_recomputing`, and so updates running statistics twice.
_UPDATES_TWICE = torch.__version__ < '2.9'

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


def is_kept(op: Any, args: Sequence[Any]) -> bool:
    """Return whether the output of an operator is stored, not computed a second time.

    Args:
        op: Overload of the operator.
        args: Arguments of the call.
    """
    return op in _CONVOLUTIONS and args[1].numel() > FEW_PRODUCTS * args[1].shape[0]


def _policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    if is_kept(op, args):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _contexts() -> tuple[Any, Any]:
    first, second = create_selective_checkpoint_contexts(_policy)
    return first, _Recomputation(second)


def recompute_elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run ``function(x)``; store only outputs of convolutions and binary linear layers.

    Of these, only outputs that sum more than ``FEW_PRODUCTS`` products are stored, see
    :func:`is_kept`. The result and the gradients are those of ``function(x)``. All other
    operations run again in the backward pass. ``torch.compile`` before torch 2.9 chooses itself
    what to store.

    Args:
        function: Function from one tensor to one tensor.
        x: Argument of the function.
    """
    if _UPDATES_TWICE and torch.compiler.is_compiling():
        return function(x)
    return checkpoint(function, x, use_reentrant=False, context_fn=_contexts)
