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
from .expansion import is_channels_last
from .native_conv import are_float32, is_plain, layout_of, trains_natively
from .recompute import keep, recall
from .sign_sums import Convolved, SignSums
from .tiled_norm import TiledBatchNorm2d


def _array(x: Tensor | None, layout: torch.memory_format = torch.contiguous_format) -> Any:
    return None if x is None else x.detach().contiguous(memory_format=layout).numpy()


def _layout(settings: dict[str, Any]) -> torch.memory_format:
    return torch.channels_last if settings['channels_last'] else torch.contiguous_format


class _Norm(torch.autograd.Function):
    """Step of :class:`mmesbnn.native.NormOperands`: result, its means, and statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        settings: dict[str, Any],
        eps: float,
        with_means: bool,
        known: Tensor | None,
        of_signs: SignSums | None,
        *operands: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        ctx.settings = settings
        scales = None
        if of_signs is not None:
            operands, scales = (of_signs.sums, *operands[1:]), of_signs.scales
        ctx.set_materialize_grads(False)
        done = normalize(
            _operands(operands, scales, settings),
            eps=eps,
            with_means=with_means,
            stats=_array(known),
            threads=torch.get_num_threads(),
        )
        stats = torch.from_numpy(done.stats)
        ctx.mark_non_differentiable(stats)
        ctx.save_for_backward(stats, scales, *operands)
        means = None if done.means is None else torch.from_numpy(done.means)
        return torch.from_numpy(done.out), means, stats

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, of_means: Tensor | None, _: Any
    ) -> tuple[Tensor | None, ...]:
        stats, scales, *saved = ctx.saved_tensors
        operands = _operands(saved, scales, ctx.settings)
        if grad is None:
            grad = stats.new_zeros(operands.shape)
        grad = grad.contiguous(memory_format=_layout(ctx.settings))
        found = normalize_gradients(
            grad.detach().numpy(),
            operands,
            stats.numpy(),
            of_means=_array(of_means),
            threads=torch.get_num_threads(),
        )
        gradients = _in_order(found)
        if operands.residual is not None and found.residual is None:
            gradients[_NAMES.index('residual')] = grad
        return None, None, None, None, None, *gradients


#: Operands of a norm in the order in which :class:`_Norm` gets them. The first one may be sums.
_NAMES = ('x', 'gain', 'bias', 'gate', 'residual', 'slope', 'shift')


def _operands(tensors: Any, scales: Tensor | None, settings: dict[str, Any]) -> NormOperands:
    layout = _layout(settings)
    arrays = (
        _array(x, layout) if name in ('x', 'residual') else _array(x)
        for name, x in zip(_NAMES, tensors)
    )
    return NormOperands(**dict(zip(_NAMES, arrays)), scales=_array(scales), **settings)


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


def _fits(residual: Tensor, x: Tensor, wide: int, last: bool) -> bool:
    batch, channels, *size = residual.shape
    repeated = wide % channels == 0 if last else wide == channels
    return repeated and (batch, *size) == (len(x), *x.shape[2:])


def _is_per_channel(x: Tensor, channels: int) -> bool:
    return x.dtype == torch.float32 and x.shape == (channels,)


def native_norm(
    x: Convolved,
    norm: nn.Module,
    *,
    copies: int,
    residual: Tensor | None = None,
    shift_in: Tensor | None = None,
    slope: Tensor | None = None,
    shift_out: Tensor | None = None,
    with_means: bool = False,
) -> tuple[Tensor, Tensor | None] | None:
    """Compute ``prelu(norm(tile(x)) + residual + shift_in) + shift_out``.

    Args:
        x: Small map ``(N, C, H, W)``, or sums of signs of which it is made.
        norm: Norm of ``copies C`` channels.
        copies: Number of copies.
        residual: Map ``(N, copies C, H, W)``; with channels last in memory also a divisor of its
            channels, which are repeated. Default None: 0.
        shift_in: Shift before the PReLU, ``(copies C,)``. Default None: 0.
        slope: Slope of the PReLU, as many. Default None: there is none.
        shift_out: Shift behind the PReLU, as many. Default None: 0.
        with_means: Whether to compute the means over positions, too. Default False.

    Returns:
        Result and its means ``(N, copies C, 1, 1)``, or None; None for both where torch's
        operators must run.
    """
    layout = _native_layout(x, residual)
    if layout is None:
        return None
    of_signs, x = (x, x.stand_in) if isinstance(x, SignSums) else (None, x)
    if not _is_own_norm(norm, x) or norm.copies != copies:
        return None
    last = layout == torch.channels_last
    if residual is not None and not _fits(residual, x, norm.num_features, last):
        return None
    if last and with_means:
        return None
    act = (shift_in, slope, shift_out)
    if not all(one is None or _is_per_channel(one, norm.num_features) for one in act):
        return None
    bias = norm.bias if shift_in is None else norm.bias + shift_in
    settings = dict(copies=copies, channels_last=last)
    operands = x, norm.weight, bias, None, residual, slope, shift_out
    y, means = _tracked(norm, settings, with_means, of_signs, *operands)
    return y, None if means is None else means[..., None, None]


def _native_layout(x: Convolved, residual: Tensor | None) -> torch.memory_format | None:
    """Return the layout of maps whose norm trains on the kernels; None if it does not."""
    others = () if residual is None else (residual,)
    if isinstance(x, Tensor):
        return layout_of(x) if trains_natively(x, *others) else None
    layout = layout_of(x.sums)
    fit = all(trains_natively(one) and one.is_contiguous(memory_format=layout) for one in others)
    return layout if fit else None


def _tracked(
    norm: TiledBatchNorm2d,
    settings: dict[str, Any],
    with_means: bool,
    of_signs: SignSums | None,
    x: Tensor,
    *operands: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Run :class:`_Norm`, with statistics of the first pass if it runs again; track new ones."""
    known = recall()
    y, means, stats = _Norm.apply(settings, norm.eps, with_means, known, of_signs, x, *operands)
    if known is None:
        keep(stats)
        norm.track_own(stats[0], stats[2], x.numel() // x.shape[1])
    return y, means


def native_gated_norm(
    x: Tensor, gate: Tensor, residual: Tensor, norm: nn.Module, *, multiplies: bool
) -> Tensor | None:
    """Compute :func:`mmesbnn.binary.unit_steps.gated_norm`, whose arguments it has.

    Returns:
        Result; None where torch's operators must run.
    """
    if not trains_natively(x, residual, gate) or not _is_own_norm(norm, x) or norm.copies != 1:
        return None
    if gate.shape != (*x.shape[:2], 1, 1) or residual.shape != x.shape or is_channels_last(x):
        return None
    settings = dict(multiplies=multiplies, channels_last=False)
    operands = x, norm.weight, norm.bias, gate.flatten(1), residual, None, None
    return _tracked(norm, settings, False, None, *operands)[0]
