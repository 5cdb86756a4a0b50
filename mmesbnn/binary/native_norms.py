"""Training steps of norms on the native kernels: few passes over memory, few stored maps.

Torch computes a norm, a residual and a PReLU in ten passes over memory in either direction, and
stores a map for most of them. The kernels make two or three, channel by channel, and store what
the step begins with.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from ..native import NormGradients, NormOperands, normalize, normalize_gradients
from .activated_sums import Activated, ActivatedSums
from .expansion import is_channels_last
from .native_mode import array_of
from .native_training import is_plain, layout_of, trains_natively
from .once_differentiable import once_differentiable
from .recompute import keep, recall
from .sign_sums import Convolved, SignSums, stand_in
from .tiled_norm import TiledBatchNorm2d


def _array(x: Tensor | None, layout: torch.memory_format = torch.contiguous_format) -> Any:
    return None if x is None else array_of(x.contiguous(memory_format=layout))


def _map_of(x: Any) -> Any:
    """Return an array of tokens ``(N, L, C)`` as a map ``(N, C, 1, L)``, and a map as it is."""
    return x if x is None or x.ndim == 4 else x.transpose(0, 2, 1)[:, :, None]


def _tensor_of(x: Any, tokens: bool) -> Tensor:
    return torch.from_numpy(x[:, :, 0].transpose(0, 2, 1) if tokens else x)


def _layout(x: Tensor, settings: dict[str, Any]) -> torch.memory_format:
    last = x.dim() == 4 and settings['channels_last']
    return torch.channels_last if last else torch.contiguous_format


class _Norm(torch.autograd.Function):
    """Step of :class:`mmesbnn.native.NormOperands`: result, its means, and statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        settings: dict[str, Any],
        options: dict[str, Any],
        known: Tensor | None,
        source: SignSums | ActivatedSums | None,
        *operands: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        scales = numbers = None
        if source is not None:
            operands, scales = (source.sums, *operands[1:]), source.scales
            numbers = source.numbers if isinstance(source, ActivatedSums) else None
        x = cast(Tensor, operands[0])
        ctx.settings, ctx.tokens = settings, x.dim() == 3
        ctx.set_materialize_grads(False)
        given = _operands(operands, scales, numbers, settings)
        done = normalize(given, stats=_array(known), threads=torch.get_num_threads(), **options)
        stats = torch.from_numpy(done.stats)
        ctx.save_for_backward(stats, scales, numbers, *operands)
        means = None if done.means is None else torch.from_numpy(done.means)
        made = None if done.unwritten is None else torch.from_numpy(done.unwritten)
        ctx.mark_non_differentiable(*(one for one in (stats, made) if one is not None))
        out = stand_in(given.shape) if done.out is None else _tensor_of(done.out, ctx.tokens)
        return out, means, stats, made

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, of_means: Tensor | None, *_: Any
    ) -> tuple[Tensor | None, ...]:
        stats, scales, numbers, *saved = ctx.saved_tensors
        operands = _operands(saved, scales, numbers, ctx.settings)
        if grad is None:  # only the means are used, which tokens do not have
            grad = stats.new_zeros(operands.shape)
        grad = grad.contiguous(memory_format=_layout(grad, ctx.settings))
        found = normalize_gradients(
            _map_of(grad.detach().numpy()),
            operands,
            stats.numpy(),
            of_means=_array(of_means),
            threads=torch.get_num_threads(),
        )
        gradients = _gradients(found, ctx.tokens)
        if saved[_NAMES.index('shift_in')] is not None:
            # a copy: each of both parameters gets memory of its own
            gradients['shift_in'] = torch.from_numpy(found.bias.copy())
        if operands.residual is not None and found.residual is None:
            gradients['residual'] = grad
        return None, None, None, None, *(gradients.get(name) for name in _NAMES)


#: Operands of a norm in the order in which :class:`_Norm` gets them. The first one may be sums. The
#: shift is added to the bias.
_NAMES = ('x', 'gain', 'bias', 'shift_in', 'gate', 'residual', 'slope', 'shift')


def _operands(
    tensors: Any, scales: Tensor | None, numbers: Tensor | None, settings: dict[str, Any]
) -> NormOperands:
    layout = _layout(tensors[0], settings)
    found: dict[str, Any] = {
        name: _map_of(_array(x, layout)) if name in ('x', 'residual') else _array(x)
        for name, x in zip(_NAMES, tensors)
    }
    shift = found.pop('shift_in')
    if shift is not None:
        found['bias'] = found['bias'] + shift
    return NormOperands(**found, scales=_array(scales), unwritten=_array(numbers), **settings)


def _gradients(found: NormGradients, tokens: bool) -> dict[str, Tensor]:
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    return {
        name: _tensor_of(value, tokens and value.ndim == 4)
        for name, value in values.items()
        if value is not None
    }


def _is_own_norm(norm: nn.Module, count: int, channels: int) -> TypeGuard[TiledBatchNorm2d]:
    """Return whether the kernels compute a norm of ``count`` numbers of each channel."""
    return (
        type(norm) is TiledBatchNorm2d
        and is_plain(norm)
        and norm.uses_own_statistics()
        and norm.weight.dtype == norm.bias.dtype == torch.float32
        and count > 1  # of one number torch says that it has no variance
        and norm.num_features == norm.copies * channels
    )


def _fits(residual: Tensor, x: Tensor, axis: int, wide: int, last: bool) -> bool:
    sizes, others = list(residual.shape), list(x.shape)
    channels = sizes.pop(axis)
    others.pop(axis)
    return sizes == others and (wide % channels == 0 if last else wide == channels)


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
    tokens: bool = False,
) -> Tensor | None:
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
        tokens: Whether maps are tokens ``(N, L, C)``. Default False.

    Returns:
        Result; None where torch's operators must run.
    """
    layout = _native_layout(x, residual, 3 if tokens else 4)
    if layout is None:
        return None
    source, x = (x, x.stand_in) if isinstance(x, SignSums) else (None, x)
    axis = 2 if tokens else 1
    channels = x.shape[axis]
    count = x.numel() // channels
    if not _is_own_norm(norm, count, channels) or norm.copies != copies:
        return None
    wide, last = norm.num_features, tokens or layout == torch.channels_last
    if residual is not None and not _fits(residual, x, axis, wide, last):
        return None
    act = (shift_in, slope, shift_out)
    if not all(one is None or _is_per_channel(one, wide) for one in act):
        return None
    settings = dict(copies=copies, channels_last=last)
    operands = x, norm.weight, norm.bias, shift_in, None, residual, slope, shift_out
    return _tracked(norm, count, settings, {}, source, *operands)[0]


def native_activated_norm(
    x: Convolved, norm: nn.Module, slope: Tensor, *, copies: int
) -> tuple[Activated, Tensor] | None:
    """Compute ``y = prelu(norm(tile(x)))`` and its means over positions.

    Args:
        x: Small map ``(N, C, H, W)``, or sums of signs. Of sums ``y`` is not written.
        norm: Norm of ``copies C`` channels.
        slope: Slope of the PReLU, ``(copies C,)``.
        copies: Number of copies.

    Returns:
        ``y`` and its means ``(N, copies C, 1, 1)``; None where torch's operators must run.
    """
    if _native_layout(x, None, 4) != torch.contiguous_format:
        return None
    source, x = (x, x.stand_in) if isinstance(x, SignSums) else (None, x)
    count = x.numel() // x.shape[1]
    if not _is_own_norm(norm, count, x.shape[1]) or norm.copies != copies:
        return None
    if not _is_per_channel(slope, norm.num_features):
        return None
    settings = dict(copies=copies, channels_last=False)
    options = dict(with_means=True, writes=source is None)
    operands = x, norm.weight, norm.bias, None, None, None, slope, None
    y, means, made = _tracked(norm, count, settings, options, source, *operands)
    means = cast(Tensor, means)[..., None, None]
    if source is None:
        return y, means
    return ActivatedSums(y, source.sums, source.scales, cast(Tensor, made)), means


def _native_layout(x: Convolved, residual: Tensor | None, dims: int) -> torch.memory_format | None:
    """Return the layout of maps whose norm trains on the kernels; None if it does not."""
    others = () if residual is None else (residual,)
    if isinstance(x, Tensor):
        return layout_of(x) if trains_natively(x, *others, dims=dims) else None
    layout = layout_of(x.sums)
    for one in others:
        if not trains_natively(one, dims=dims) or not one.is_contiguous(memory_format=layout):
            return None
    return layout


def _tracked(
    norm: TiledBatchNorm2d,
    count: int,
    settings: dict[str, Any],
    options: dict[str, Any],
    source: SignSums | ActivatedSums | None,
    x: Tensor,
    *operands: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run :class:`_Norm`, with statistics of the first pass if it runs again; track new ones."""
    known = recall()
    options = dict(options, eps=norm.eps)
    y, means, stats, made = _Norm.apply(settings, options, known, source, x, *operands)
    if known is None:
        keep(stats)
        norm.track_own(stats[0], stats[2], count)
    return y, means, made


def native_gated_norm(
    x: Activated, gate: Tensor, residual: Tensor, norm: nn.Module, *, multiplies: bool
) -> Tensor | None:
    """Compute :func:`mmesbnn.binary.unit_steps.gated_norm`, whose arguments it has.

    Returns:
        Result; None where torch's operators must run.
    """
    if not _reads_gated(x, residual, gate):
        return None
    source, x = (x, x.stand_in) if isinstance(x, ActivatedSums) else (None, x)
    channels = x.shape[1]
    count = x.numel() // channels
    if not _is_own_norm(norm, count, channels) or norm.copies != 1:
        return None
    if gate.shape != (*x.shape[:2], 1, 1) or residual.shape != x.shape:
        return None
    settings = dict(multiplies=multiplies, channels_last=False)
    operands = x, norm.weight, norm.bias, None, gate.flatten(1), residual, None, None
    return _tracked(norm, count, settings, {}, source, *operands)[0]


def _reads_gated(x: Activated, residual: Tensor, gate: Tensor) -> bool:
    """Return whether a gated norm of these operands trains on the kernels."""
    if isinstance(x, Tensor):
        return trains_natively(x, residual, gate) and not is_channels_last(x)
    return trains_natively(residual, gate) and residual.is_contiguous()
