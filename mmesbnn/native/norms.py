"""Training steps of batch norms and what follows them, in few passes over memory."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .arguments import check_operand, check_threads, empty_map, floats, pointer, raise_for
from .library import NativeError, library
from .norm_operands import Normalized, NormGradients, NormOperands


def _optional(value: np.ndarray | None) -> ctypes._Pointer[ctypes.c_float] | None:
    return None if value is None else floats(value)


def _map_and_scales(operands: NormOperands) -> tuple[Any, Any, Any]:
    """Return pointers to ``x``, or to sums and their scales."""
    if operands.scales is None:
        return floats(operands.x), None, None
    return None, pointer(operands.x, ctypes.c_int16), floats(operands.scales)


def _unwritten(operands: NormOperands) -> tuple[Any, int]:
    """Return the numbers of an ``x`` that is not written, and its copies of the sums."""
    if operands.unwritten is None:
        return None, 1
    return floats(operands.unwritten), operands.channels // operands.x.shape[1]


def _sizes(operands: NormOperands) -> tuple[int, int, int, int]:
    batch, _, height, width = operands.x.shape
    return batch, operands.channels, operands.copies, height * width


def _token_sizes(operands: NormOperands) -> tuple[int, int, int]:
    batch, channels, height, width = operands.x.shape
    return batch * height * width, channels, operands.copies


def _added(operands: NormOperands) -> int:
    return 1 if operands.residual is None else operands.residual.shape[1]


def normalize(
    operands: NormOperands,
    *,
    eps: float = 1e-5,
    with_means: bool = False,
    writes: bool = True,
    stats: np.ndarray | None = None,
    threads: int = 1,
) -> Normalized:
    """Compute the result of :class:`NormOperands` in a training step.

    Sums are made of float32 numbers in parts of a map and added as float64. The result does not
    depend on the number of threads; it depends on the instruction set by the rounding of float32.

    Args:
        operands: Operands.
        eps: Number added to the variance, >= 0. Default 1e-5.
        with_means: Whether to compute the means of the result over its pixels. Default False.
        writes: Whether to write the result. Without it there are its means and the numbers by
            which other norms make it of the sums, for operands with scales and a slope, and
            without residual and shift. Default True.
        stats: ``stats`` of an earlier call with the same operands, which are not measured then.
            Default None.
        threads: Number of threads. Default 1.

    Raises:
        NativeError: If an argument is out of its range, or ``stats`` has a wrong shape.
    """
    last = operands.channels_last
    if last and with_means:
        raise NativeError('with_means=True is not for maps with channels last in memory')
    _check_writes(operands, writes)
    batch, wide, *_ = operands.shape
    out = _empty_map(operands, wide) if writes else None
    unwritten = None if writes else np.empty((3, wide), np.float32)
    means = np.empty((batch, wide), np.float32) if with_means else None
    check_operand('stats', stats, (3, operands.channels))
    measured = stats is not None
    stats = np.empty((3, operands.channels), np.float32) if stats is None else stats
    x, affine = _map_and_scales(operands), (floats(operands.gain), floats(operands.bias))
    act = _optional(operands.slope), _optional(operands.shift)
    residual, threads = _optional(operands.residual), check_threads(threads)
    if last:
        status = library().mmesbnn_normalize_tokens(
            *(*x, *_token_sizes(operands), residual, _added(operands), *affine, *act),
            *(eps, measured, threads, _optional(out), floats(stats)),
        )
    else:
        status = library().mmesbnn_normalize(
            *(*x, *_unwritten(operands), *_sizes(operands), _optional(operands.gate), residual),
            *(operands.multiplies, *affine, *act, eps, measured, threads),
            *(_optional(out), _optional(means), floats(stats), _optional(unwritten)),
        )
    raise_for(status, 'normalize')
    return Normalized(out, means, stats, unwritten)


def _check_writes(operands: NormOperands, writes: bool) -> None:
    if writes:
        return
    of_sums = operands.scales is not None and operands.gate is None and not operands.channels_last
    if not of_sums or operands.slope is None:
        raise NativeError('writes=False needs scales and a slope, pixels side by side, and no gate')
    if operands.residual is not None or operands.shift is not None:
        raise NativeError('writes=False is not for a residual or a shift')


def normalize_gradients(
    grad: np.ndarray,
    operands: NormOperands,
    stats: np.ndarray,
    *,
    of_means: np.ndarray | None = None,
    threads: int = 1,
) -> NormGradients:
    """Compute the gradients of :func:`normalize`.

    Args:
        grad: Gradient of the result.
        operands: Operands of the call.
        stats: ``stats`` of its result.
        of_means: Gradient of the means, ``(N, copies C)``, without a gate. It must be None if
            there is a residual but no slope. Default None: 0.
        threads: Number of threads. Default 1.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    last = operands.channels_last
    operands.check_map('grad', grad)
    check_operand('stats', stats, (3, operands.channels))
    check_operand('of_means', of_means, operands.shape[:2])
    found = _empty_gradients(operands)
    only_added = operands.residual is not None and found.residual is None
    if of_means is not None and (operands.gate is not None or only_added or last):
        raise NativeError(
            'of_means is for operands without gate, and without a residual that is only added, '
            'not channels last in memory'
        )
    x, affine = _map_and_scales(operands), (floats(operands.gain), floats(operands.bias))
    residual, threads = _optional(operands.residual), check_threads(threads)
    slope, of_act = _optional(operands.slope), (_optional(found.slope), _optional(found.shift))
    of_affine = floats(found.gain), floats(found.bias)
    if last:
        is_inner = found.residual is not None and not operands.repeats
        inner = found.residual if is_inner else _empty_map(operands, operands.wide)
        of_residual = _optional(found.residual) if operands.repeats else None
        status = library().mmesbnn_normalize_tokens_gradients(
            *(*x, *_token_sizes(operands), residual, _added(operands), *affine, slope),
            *(floats(stats), floats(grad), threads, floats(found.x), _optional(inner)),
            *(of_residual, *of_affine, *of_act),
        )
    else:
        status = library().mmesbnn_normalize_gradients(
            *(*x, *_unwritten(operands), *_sizes(operands), _optional(operands.gate), residual),
            *(operands.multiplies, *affine, slope, floats(stats), floats(grad)),
            *(_optional(of_means), threads),
            *(floats(found.x), _optional(found.gate), _optional(found.residual)),
            *(*of_affine, *of_act),
        )
    raise_for(status, 'normalize_gradients')
    return found


def _empty_map(operands: NormOperands, channels: int) -> np.ndarray:
    batch, _, height, width = operands.x.shape
    return empty_map(batch, channels, (height, width), channels_last=operands.channels_last)


def _empty_gradients(operands: NormOperands) -> NormGradients:
    def empty_like(value: np.ndarray | None) -> np.ndarray | None:
        return None if value is None else np.empty_like(value)

    changes = operands.multiplies or operands.repeats or operands.slope is not None
    residual = operands.residual if changes else None
    return NormGradients(
        x=_empty_map(operands, operands.channels),
        gain=np.empty(operands.wide, np.float32),
        bias=np.empty(operands.wide, np.float32),
        gate=empty_like(operands.gate),
        residual=None if residual is None else _empty_map(operands, residual.shape[1]),
        slope=empty_like(operands.slope),
        shift=empty_like(operands.shift),
    )
