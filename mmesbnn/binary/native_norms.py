"""Training steps of norms on the native kernels: few passes over memory, few stored maps.

Torch computes a norm, a residual and a PReLU in ten passes over memory in either direction, and
stores a map for most of them. The kernels make two or three, channel by channel, and store what
the step begins with.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..native import NormGradients, NormOperands, normalize, normalize_gradients
from .layers import LearnableShift
from .native_conv import are_float32, is_plain, trains_natively
from .prelus import ChannelPReLU
from .tiled_norm import TiledBatchNorm2d


def _array(x: Tensor | None) -> Any:
    return None if x is None else x.detach().contiguous().numpy()


class _Norm(torch.autograd.Function):
    """Step of :class:`mmesbnn.native.NormOperands`: result, its means, and statistics."""

    @staticmethod
    def forward(
        ctx: Any, settings: dict[str, Any], eps: float, with_means: bool, *operands: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        done = normalize(
            _operands(operands, settings),
            eps=eps,
            with_means=with_means,
            threads=torch.get_num_threads(),
        )
        stats = torch.from_numpy(done.stats)
        ctx.mark_non_differentiable(stats)
        ctx.save_for_backward(stats, *operands)
        means = None if done.means is None else torch.from_numpy(done.means)
        return torch.from_numpy(done.out), means, stats

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, of_means: Tensor | None, _: Any
    ) -> tuple[Tensor | None, ...]:
        stats, *saved = ctx.saved_tensors
        operands = _operands(saved, ctx.settings)
        grad = stats.new_zeros(operands.shape) if grad is None else grad.contiguous()
        found = normalize_gradients(
            _array(grad),
            operands,
            stats.numpy(),
            of_means=_array(of_means),
            threads=torch.get_num_threads(),
        )
        gradients = _in_order(found)
        if operands.residual is not None and found.residual is None:
            gradients[_NAMES.index('residual')] = grad
        return None, None, None, *gradients


#: Operands of a norm in the order in which :class:`_Norm` gets them.
_NAMES = ('x', 'gain', 'bias', 'gate', 'residual', 'slope', 'shift')


def _operands(tensors: Any, settings: dict[str, Any]) -> NormOperands:
    return NormOperands(**dict(zip(_NAMES, map(_array, tensors))), **settings)


def _in_order(found: NormGradients) -> list[Tensor | None]:
    arrays = (getattr(found, name) for name in _NAMES)
    return [None if one is None else torch.from_numpy(one) for one in arrays]


def _is_own_norm(norm: nn.Module, x: Tensor) -> TypeGuard[TiledBatchNorm2d]:
    return (
        type(norm) is TiledBatchNorm2d
        and is_plain(norm)
        and norm.uses_own_statistics()
        and are_float32(norm)
        and x.numel() > x.shape[1]  # of one number torch says that it has no variance
        and norm.num_features == norm.copies * x.shape[1]
    )


def _is_own(module: nn.Module, kind: type[nn.Module], channels: int) -> bool:
    """Return whether a module is one of our layers, with a parameter for each channel."""
    size = sum(parameter.numel() for parameter in module.parameters())
    return type(module) is kind and is_plain(module) and are_float32(module) and size == channels


def native_norm(
    x: Tensor,
    norm: nn.Module,
    *,
    copies: int,
    residual: Tensor | None = None,
    shift_in: Any = None,
    act: Any = None,
    shift_out: Any = None,
    with_means: bool = False,
) -> tuple[Tensor, Tensor | None] | None:
    """Compute ``act(norm(tile(x)) + residual + shift_in) + shift_out``.

    Args:
        x: Small map ``(N, C, H, W)``.
        norm: Norm of ``copies C`` channels.
        copies: Number of copies.
        residual: Map ``(N, copies C, H, W)``. Default None: 0.
        shift_in: Shift before the PReLU. Default None.
        act: PReLU. Default None.
        shift_out: Shift behind the PReLU. Default None.
        with_means: Whether to compute the means over positions, too. Default False.

    Returns:
        Result and its means ``(N, copies C, 1, 1)``, or None; None for both where torch's
        operators must run.
    """
    maps = (x,) if residual is None else (x, residual)
    if not trains_natively(*maps) or not _is_own_norm(norm, x) or norm.copies != copies:
        return None
    if residual is not None and residual.shape != (len(x), norm.num_features, *x.shape[2:]):
        return None
    kinds = ((shift_in, LearnableShift), (act, ChannelPReLU), (shift_out, LearnableShift))
    if not all(one is None or _is_own(one, kind, norm.num_features) for one, kind in kinds):
        return None
    bias = norm.bias if shift_in is None else norm.bias + shift_in.bias.flatten()
    slope = None if act is None else act.weight
    shift = None if shift_out is None else shift_out.bias.flatten()
    settings = dict(copies=copies)
    y, means, stats = _Norm.apply(
        settings, norm.eps, with_means, x, norm.weight, bias, None, residual, slope, shift
    )
    norm.track_own(stats[0], stats[2], x.numel() // x.shape[1])
    return y, None if means is None else means[..., None, None]


def native_gated_norm(
    x: Tensor, gate: Tensor, residual: Tensor, norm: nn.Module, *, multiplies: bool
) -> Tensor | None:
    """Compute ``norm(gate x) + residual``, or ``norm(gate x residual) + residual``.

    Args:
        x: Map ``(N, C, H, W)``.
        gate: ``(N, C, 1, 1)``.
        residual: Map of ``x``'s shape.
        norm: Norm of ``C`` channels.
        multiplies: Whether the normalised map is multiplied by the residual.

    Returns:
        Result; None where torch's operators must run.
    """
    if not trains_natively(x, residual, gate) or not _is_own_norm(norm, x) or norm.copies != 1:
        return None
    if gate.shape != (*x.shape[:2], 1, 1) or residual.shape != x.shape:
        return None
    settings = dict(multiplies=multiplies)
    operands = x, norm.weight, norm.bias, gate.flatten(1), residual, None, None
    y, _, stats = _Norm.apply(settings, norm.eps, False, *operands)
    norm.track_own(stats[0], stats[2], x.numel() // x.shape[1])
    return y
