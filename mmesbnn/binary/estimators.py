"""Gradients that stand in for those of a sign, as single steps of autograd.

A sign with its surrogate, composed of torch's operations, makes ten passes over memory. Some
of them (comparisons, ``where``) are ten times as slow as an addition on a CPU. A single step
makes four fast ones. ``torch.compile`` fuses the composed form, and ``torch.func`` and
forward-mode differentiation need it, so they get it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: Gradient with respect to ``x``, from that of the value and ``x``.
Gradient = Callable[[Tensor, Tensor], Tensor]


class _Estimator(torch.autograd.Function):
    """Step with ``compute(x)`` forward and ``gradient(grad, x)`` (None: ``grad``) backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, compute: Callable[[Tensor], Tensor], gradient: Gradient | None
    ) -> Tensor:
        ctx.gradient = gradient
        if gradient is not None:
            ctx.save_for_backward(x)
        return compute(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.gradient is None:
            return grad, None, None
        (x,) = ctx.saved_tensors
        return ctx.gradient(grad, x), None, None


def estimate(
    x: Tensor, compute: Callable[[Tensor], Tensor], gradient: Gradient | None = None
) -> Tensor:
    """Compute ``compute(x)``, with the gradient ``gradient``, as one step of autograd.

    Args:
        x: Tensor of any shape; kept for the backward pass if ``gradient`` is given.
        compute: Function that returns a new tensor of ``x``'s shape and dtype.
        gradient: Function of the result's gradient and ``x`` that returns the gradient with
            respect to ``x``, in operations that torch can differentiate. Default None: the
            two gradients are equal.
    """
    return _Estimator.apply(x, compute, gradient)


@functools.lru_cache
def _just_above(bound: float, dtype: torch.dtype) -> float:
    """Return the next number after ``bound`` in the dtype of the kernel's comparison."""
    if dtype == torch.float64:
        return math.nextafter(bound, math.inf)
    # not in the dtype or on the device that torch has as default
    rounded = torch.tensor(bound, dtype=dtype, device='cpu').float()
    return torch.nextafter(rounded, torch.full_like(rounded, math.inf)).item()


def window_gradient(grad: Tensor, x: Tensor, clip: float) -> Tensor:
    """Compute the gradient of the hard tanh: ``grad`` where ``|x| <= clip``, else 0."""
    bound = _just_above(clip, x.dtype)  # torch excludes the bounds
    return torch.ops.aten.hardtanh_backward(grad, x, -bound, bound)


def triangle_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Compute the gradient of the piecewise quadratic, ``grad * max(0, 2 - 2|x|)``."""
    return grad * x.abs().mul_(-2).add_(2).relu_()
