"""Steps of autograd whose gradients cannot be differentiated again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import function

Backward = Callable[..., tuple[Tensor | None, ...]]


def once_differentiable(backward: Backward) -> Backward:
    """Let a backward pass raise an error where its gradients are differentiated.

    Torch's decorator of this name does so only if the incoming gradient is differentiated, too.
    Else it returns constants, and a penalty of gradients would train nothing without a word: the
    gradients depend on the stored operands as well. For steps whose gradients do not, such as
    poolings, constants are right, and torch's decorator is enough.

    Args:
        backward: Method ``backward(ctx, *grads)`` of a ``torch.autograd.Function``.
    """
    step = function.once_differentiable(backward)

    @functools.wraps(backward)
    def wrapper(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # by create_graph=True
            grads = tuple(None if one is None else _differentiated(one) for one in grads)
        return step(ctx, *grads)

    return wrapper


def _differentiated(grad: Tensor) -> Tensor:
    return grad if grad.requires_grad else grad.detach().requires_grad_()
