"""Affine of a tiled map, computed from the small map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .expansion import like_layout
from .signs import trains_on_cpu


class _TiledAffine(torch.autograd.Function):
    """Step ``x_c * scale_kc + shift_kc`` for every copy ``k``.

    The composed formula makes maps of the tiled width in the dtype of the affine, for the value
    under autocast and for both products of the backward pass. This step makes small ones.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        y = x.new_empty(x.shape[0], scale.shape[0], *x.shape[1:])
        for copy, factor, offset in zip(y.unbind(1), scale, shift):
            copy.copy_(torch.addcmul(offset, x, factor))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        copies = grad.unbind(1)
        grad_x = grad_scale = grad_shift = None
        if ctx.needs_input_grad[0]:
            grad_x = copies[0] * scale[0]
            for copy, factor in zip(copies[1:], scale[1:]):
                grad_x.addcmul_(copy, factor)
            grad_x = grad_x.to(x.dtype)
        if ctx.needs_input_grad[1]:
            wide = x.to(torch.promote_types(x.dtype, scale.dtype))
            products = [(copy * wide).sum((0, 2, 3)) for copy in copies]
            grad_scale = torch.stack(products).to(scale.dtype).view_as(scale)
        if ctx.needs_input_grad[2]:
            grad_shift = grad.sum((0, 3, 4), dtype=scale.dtype).view_as(scale)
        return grad_x, grad_scale, grad_shift


def tiled_affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute ``tile(x) * scale + shift`` without storing the tiled ``x``.

    Args:
        x: Small map ``(N, C, H, W)``.
        scale: One factor per tiled channel, ``(k C,)``.
        shift: One offset per tiled channel, ``(k C,)``.

    Returns:
        Tensor ``(N, k C, H, W)`` of ``x``'s dtype.
    """
    per_copy = (-1, x.shape[1], 1, 1)
    scale, shift = scale.view(per_copy), shift.view(per_copy)
    if trains_on_cpu(x, scale, shift) and x.is_contiguous():
        return _TiledAffine.apply(x, scale, shift).flatten(1, 2)
    y = torch.addcmul(shift, x.unsqueeze(1), scale)
    return like_layout(y.flatten(1, 2).to(x.dtype), x)
