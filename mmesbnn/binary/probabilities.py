"""Binary probabilities of attention, also as one native step."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..native import elastic_gradients, elastic_values
from .elastic import ElasticBinarizer, is_native_clip
from .functional import binary_matmul
from .native_mode import kept
from .native_training import is_own, trains_natively
from .once_differentiable import once_differentiable


def _product(a: Tensor, b: Tensor, divisor: float) -> Tensor:
    """Compute ``a @ b / divisor`` of stacks of matrices. The divisor is a power of two."""
    out = kept(len(a), a.shape[1], b.shape[2])
    return torch.baddbmm(out, a, b, beta=0, alpha=1 / divisor, out=out)


class _Probabilities(torch.autograd.Function):
    """Step of :func:`binary_probabilities` without a bias. It stores its operands and a softmax."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, divisor: float, clip: Tensor) -> Tensor:
        ctx.divisor = divisor
        q, k = query.flatten(0, 1), key.flatten(0, 1)
        scores = _product(q, k.mT, divisor)
        p = torch.softmax(scores, -1, out=kept(*scores.shape))
        ctx.save_for_backward(query, key, clip, p)
        y = elastic_values(p.numpy(), clip.item(), threads=torch.get_num_threads())
        return torch.from_numpy(y.reshape(*query.shape[:3], -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, clip, p = ctx.saved_tensors
        arrays = grad.detach().contiguous().view(p.shape).numpy(), p.numpy()
        of_p, of_clip = elastic_gradients(*arrays, clip.item(), threads=torch.get_num_threads())
        softmax = torch.ops.aten._softmax_backward_data.out
        of_scores = softmax(torch.from_numpy(of_p), p, -1, p.dtype, grad_input=kept(*p.shape))
        q, k = query.flatten(0, 1), key.flatten(0, 1)
        of_q = _product(of_scores, k, ctx.divisor).view(query.shape)
        of_k = _product(of_scores.mT, q, ctx.divisor).view(key.shape)
        return of_q.detach(), of_k.detach(), None, torch.full_like(clip, of_clip)


def binary_probabilities(
    query: Tensor,
    key: Tensor,
    divisor: float,
    bias: Tensor | None,
    binarizer: nn.Module,
    clip: Tensor,
) -> Tensor:
    """Compute ``binarizer(softmax(q k^T / divisor + bias), clip)``.

    Args:
        query: Signs ``(N, heads, L, d)``.
        key: Signs ``(N, heads, keys, d)``.
        divisor: Divisor of their products, ``sqrt(d)``.
        bias: Summand that broadcasts with ``(N, heads, L, keys)``; None: 0.
        binarizer: :class:`ElasticBinarizer`, or the module in its place.
        clip: Probability that is not 0, a tensor with one entry.
    """
    exact = math.frexp(divisor)[0] == 0.5  # else a factor rounds in another way
    if exact and bias is None and is_own(binarizer, ElasticBinarizer):
        trains = trains_natively(query, key) and query.is_contiguous()
        if trains and is_native_clip(clip, query.dim()):
            return cast(Tensor, _Probabilities.apply(query, key, divisor, clip))
    scores = binary_matmul(query, key.mT) / divisor
    if bias is not None:
        scores = scores + bias
    return cast(Tensor, binarizer(scores.softmax(-1), clip))
