"""Signs of queries, keys and values, divided among the heads of attention."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..native import head_signs, head_signs_gradient
from .layers import LearnableShift, RSign
from .native_conv import Surrogate, surrogate_of
from .native_mode import array_of
from .native_training import is_own, trains_tokens_natively
from .once_differentiable import once_differentiable


class _HeadSigns(torch.autograd.Function):
    """Step of a sign with its shift, and the order of heads, which needs no copies then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, heads: int, surrogate: Surrogate) -> Tensor:
        ctx.heads, ctx.surrogate = heads, surrogate
        ctx.save_for_backward(x, shift)
        arrays, threads = (x.detach().numpy(), array_of(shift)), torch.get_num_threads()
        return torch.from_numpy(head_signs(*arrays, heads=heads, threads=threads))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, shift = ctx.saved_tensors
        of_x, of_shift = head_signs_gradient(
            *(grad.detach().contiguous().numpy(), x.numpy(), array_of(shift)),
            heads=ctx.heads,
            surrogate=ctx.surrogate.name,
            clip=ctx.surrogate.clip,
            threads=torch.get_num_threads(),
        )
        return torch.from_numpy(of_x), torch.from_numpy(of_shift), None, None


def signs_of_heads(x: Tensor, sign: nn.Module, heads: int) -> Tensor:
    """Compute ``sign(x)`` and divide its channels among heads.

    Args:
        x: Tokens ``(N, L, C)``.
        sign: :class:`RSign` of tokens, or another layer.
        heads: Number of heads.

    Returns:
        Tensor ``(N, heads, L, C / heads)``.
    """
    if trains_tokens_natively(x):
        found = _surrogate(sign, x.shape[-1:])
        if found is not None:
            shift = cast(RSign, sign).shift.bias
            return cast(Tensor, _HeadSigns.apply(x, shift, heads, found))
    return cast(Tensor, sign(x)).unflatten(-1, (heads, -1)).transpose(1, 2)


def _surrogate(sign: nn.Module, shape: torch.Size) -> Surrogate | None:
    """Return the surrogate of a sign that the kernels compute, else None."""
    if not is_own(sign, RSign) or not is_own(sign.shift, LearnableShift):
        return None
    shift = sign.shift
    fits = shift.bias.dtype == torch.float32 and shift.bias.shape == shape
    return surrogate_of(sign.sign) if fits and shift.bias.is_contiguous() else None
