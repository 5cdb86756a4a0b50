"""Training steps of batch norms and signs in few passes over memory."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arguments import (
    array_of,
    check_shape,
    check_threads,
    empty_map,
    float_array,
    float_map,
    floats,
    pointer,
    raise_for,
)
from .library import NativeError, library

#: Functions that stand for the derivative of a sign, by their numbers in the C interface.
SURROGATES = {'window': 0, 'triangle': 1}


@dataclass(frozen=True)
class NormOperands:
    """Operands of a batch norm and the operations around it.

    ``out = act(gain (z - mean) / sqrt(variance + eps) + bias + residual) + shift`` with ``z = x``,
    ``gate x``, or ``gate x residual``, or ``scales x``. Mean and variance are those of a channel of
    ``z`` over batch and pixels. Each of the ``copies`` of ``z`` has ``C`` of the ``copies C``
    gains. ``act`` is a PReLU, or nothing if there is no slope. All arrays are float32, but ``x``
    with ``scales``.

    Attributes:
        x: Map ``(N, C, H, W)``; with ``scales`` of int16.
        gain: ``(copies C,)``.
        bias: ``(copies C,)``.
        copies: Number of copies. Default 1.
        gate: ``(N, C)``, only for one copy without a slope. Default None: 1.
        residual: Map ``(N, copies C, H, W)``; with channels last in memory also fewer channels, a
            divisor of ``copies C``, which are repeated. Default None: 0.
        multiplies: Whether ``z`` is multiplied by the residual. Default False.
        slope: ``(copies C,)``, of negative numbers. Default None: there is no PReLU.
        shift: ``(copies C,)``. Default None: 0.
        channels_last: Whether the channels of a pixel lie side by side in the maps' memory, for
            operands without a gate. Default False: the pixels of a channel do.
        scales: ``(C,)``, for operands without a gate. Then ``x`` are sums of
            :func:`convolve_sums`, and ``z`` is the result of :func:`convolve`. Default None.

    Raises:
        NativeError: If an array is of another type, or has a wrong shape or another layout, or if
            a gate stands beside copies, slopes or scales.
    """

    x: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    copies: int = 1
    gate: np.ndarray | None = None
    residual: np.ndarray | None = None
    multiplies: bool = False
    slope: np.ndarray | None = None
    shift: np.ndarray | None = None
    channels_last: bool = False
    scales: np.ndarray | None = None

    def __post_init__(self) -> None:
        kind = np.float32 if self.scales is None else np.int16
        _check_layout('x', self.x, self.channels_last, kind)
        if self.copies < 1:
            raise NativeError(f'copies={self.copies} must be at least 1')
        beside = self.slope is not None or self.scales is not None
        if self.gate is not None and (self.copies > 1 or beside or self.channels_last):
            raise NativeError(
                'gate is for one copy without slope and scales, not channels last in memory'
            )
        if self.multiplies and (self.gate is None or self.residual is None):
            raise NativeError('multiplies=True needs gate and residual')
        per_channel, (batch, channels, *_) = (self.wide,), self.x.shape
        _check('scales', self.scales, (channels,))
        _check('gain', self.gain, per_channel)
        _check('bias', self.bias, per_channel)
        _check('gate', self.gate, (batch, channels))
        self._check_residual()
        _check('slope', self.slope, per_channel)
        _check('shift', self.shift, per_channel)

    def check_map(self, name: str, value: np.ndarray | None) -> None:
        """Check the shape of the result, and the layout, which is that of ``x``."""
        if value is None:
            return
        check_shape(name, value, self.shape)
        _check_layout(name, value, self.channels_last)

    def _check_residual(self) -> None:
        if self.residual is None or not self.channels_last:
            self.check_map('residual', self.residual)
            return
        _check_layout('residual', self.residual, True)
        batch, added, *size = self.residual.shape
        if (batch, *size) != (len(self.x), *self.x.shape[2:]) or self.wide % added:
            raise NativeError(
                f'residual has the shape {self.residual.shape}; it must be {self.shape}, or have a '
                'divisor of its channels'
            )

    @property
    def repeats(self) -> bool:
        """Answer whether the residual has fewer channels than the result."""
        return self.residual is not None and self.residual.shape[1] < self.wide

    @property
    def wide(self) -> int:
        """Number of channels of the result."""
        return self.copies * self.x.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result, ``(N, copies C, H, W)``."""
        batch, _, *size = self.x.shape
        return (batch, self.wide, *size)


@dataclass(frozen=True)
class Normalized:
    """Result of :func:`normalize`.

    Attributes:
        out: Map ``(N, copies C, H, W)``.
        means: Means of ``out`` over its pixels, ``(N, copies C)``, or None.
        stats: ``(3, C)``: mean, ``1 / sqrt(variance + eps)``, and variance of ``z``.
    """

    out: np.ndarray
    means: np.ndarray | None
    stats: np.ndarray


@dataclass(frozen=True)
class NormGradients:
    """Gradients of the :class:`NormOperands` of the same names; None where there is no operand.

    ``x`` is the gradient of ``scales x`` where there are scales. ``residual`` is None, too, if
    there is neither slope nor product nor repetition: its gradient is that of the result.
    """

    x: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    gate: np.ndarray | None
    residual: np.ndarray | None
    slope: np.ndarray | None
    shift: np.ndarray | None


def _check_layout(
    name: str, value: np.ndarray, channels_last: bool, kind: type = np.float32
) -> None:
    last = channels_last and getattr(value, 'ndim', 0) == 4
    rows = value.transpose(0, 2, 3, 1) if last else value
    array_of(kind, name, rows, 4)
    if not rows.flags.c_contiguous:
        raise NativeError(f'{name} has another layout in memory')


def _check(name: str, value: np.ndarray | None, shape: tuple[int, ...]) -> None:
    if value is None:
        return
    float_array(name, value, len(shape))
    if not value.flags.c_contiguous:
        raise NativeError(f'{name} must be contiguous')
    check_shape(name, value, shape)


def _optional(value: np.ndarray | None) -> ctypes._Pointer[ctypes.c_float] | None:
    return None if value is None else floats(value)


def _map_and_scales(operands: NormOperands) -> tuple[Any, Any, Any]:
    """Return pointers to ``x``, or to sums and their scales."""
    if operands.scales is None:
        return floats(operands.x), None, None
    return None, pointer(operands.x, ctypes.c_int16), floats(operands.scales)


def _sizes(operands: NormOperands) -> tuple[int, int, int, int]:
    batch, channels, height, width = operands.x.shape
    return batch, channels, operands.copies, height * width


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
        stats: ``stats`` of an earlier call with the same operands, which are not measured then.
            Default None.
        threads: Number of threads. Default 1.

    Raises:
        NativeError: If an argument is out of its range, or ``stats`` has a wrong shape.
    """
    last = operands.channels_last
    if last and with_means:
        raise NativeError('with_means=True is not for maps with channels last in memory')
    batch, wide, *size = operands.shape
    out = empty_map(batch, wide, (size[0], size[1]), channels_last=last)
    means = np.empty((batch, wide), np.float32) if with_means else None
    _check('stats', stats, (3, operands.x.shape[1]))
    measured = stats is not None
    stats = np.empty((3, operands.x.shape[1]), np.float32) if stats is None else stats
    x, affine = _map_and_scales(operands), (floats(operands.gain), floats(operands.bias))
    act = _optional(operands.slope), _optional(operands.shift)
    residual, threads = _optional(operands.residual), check_threads(threads)
    if last:
        status = library().mmesbnn_normalize_tokens(
            *(*x, *_token_sizes(operands), residual, _added(operands), *affine, *act),
            *(eps, measured, threads, floats(out), floats(stats)),
        )
    else:
        status = library().mmesbnn_normalize(
            *(*x, *_sizes(operands), _optional(operands.gate), residual, operands.multiplies),
            *(*affine, *act, eps, measured, threads),
            *(floats(out), _optional(means), floats(stats)),
        )
    raise_for(status, 'normalize')
    return Normalized(out, means, stats)


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
        of_means: Gradient of the means, ``(N, copies C)``, without a gate. Default None: 0.
        threads: Number of threads. Default 1.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    last = operands.channels_last
    operands.check_map('grad', grad)
    _check('stats', stats, (3, operands.x.shape[1]))
    _check('of_means', of_means, operands.shape[:2])
    if of_means is not None and (operands.gate is not None or last):
        raise NativeError('of_means is for operands without gate, not channels last in memory')
    found = _empty_gradients(operands)
    x, affine = _map_and_scales(operands), (floats(operands.gain), floats(operands.bias))
    residual, threads = _optional(operands.residual), check_threads(threads)
    slope, of_act = _optional(operands.slope), (_optional(found.slope), _optional(found.shift))
    of_affine = floats(found.gain), floats(found.bias)
    if last:
        is_inner = found.residual is not None and not operands.repeats
        inner = found.residual if is_inner else np.empty_like(grad)
        of_residual = _optional(found.residual) if operands.repeats else None
        status = library().mmesbnn_normalize_tokens_gradients(
            *(*x, *_token_sizes(operands), residual, _added(operands), *affine, slope),
            *(floats(stats), floats(grad), threads, floats(found.x), _optional(inner)),
            *(of_residual, *of_affine, *of_act),
        )
    else:
        status = library().mmesbnn_normalize_gradients(
            *(*x, *_sizes(operands), _optional(operands.gate), residual, operands.multiplies),
            *(*affine, slope, floats(stats), floats(grad), _optional(of_means), threads),
            *(floats(found.x), _optional(found.gate), _optional(found.residual)),
            *(*of_affine, *of_act),
        )
    raise_for(status, 'normalize_gradients')
    return found


def _empty_gradients(operands: NormOperands) -> NormGradients:
    def empty_like(value: np.ndarray | None) -> np.ndarray | None:
        return None if value is None else np.empty_like(value)

    changes = operands.multiplies or operands.repeats or operands.slope is not None
    return NormGradients(
        x=np.empty_like(operands.x, np.float32),
        gain=np.empty(operands.wide, np.float32),
        bias=np.empty(operands.wide, np.float32),
        gate=empty_like(operands.gate),
        residual=empty_like(operands.residual) if changes else None,
        slope=empty_like(operands.slope),
        shift=empty_like(operands.shift),
    )


def sign_gradient(
    grad: np.ndarray,
    x: np.ndarray,
    shift: np.ndarray,
    *,
    surrogate: str,
    clip: float = 1.0,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gradients of ``sign(x + shift)`` that stand for the true ones.

    ``of_x = grad d(x + shift)``, with ``d(v) = 1`` where ``|v| <= clip`` and else 0 (``'window'``),
    or ``d(v) = max(0, 2 - 2|v|)`` (``'triangle'``).

    Args:
        grad: Gradient of the signs, float32 ``(N, C, H, W)``; the gradient of ``x`` overwrites it.
        x: float32 ``(N, C, H, W)``. Both may lie channels last in memory.
        shift: float32 ``(C,)``.
        surrogate: One of ``SURROGATES``.
        clip: Half width of the window. Default 1.
        threads: Number of threads. Default 1.

    Returns:
        Gradient of ``x``, and of ``shift``, which is its sum.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    if surrogate not in SURROGATES:
        raise NativeError(f'surrogate={surrogate!r} must be one of {sorted(SURROGATES)}')
    x, last = float_map('x', x)
    check_shape('grad', grad, x.shape)
    _check_layout('grad', grad, last)
    _check('shift', shift, x.shape[1:2])
    batch, channels, height, width = x.shape
    of_shift, numbers = np.empty_like(shift), (SURROGATES[surrogate], clip, check_threads(threads))
    operands, results = (floats(grad), floats(x)), (floats(grad), floats(of_shift))
    if last:
        status = library().mmesbnn_sign_gradient_tokens(
            *operands, batch * height * width, channels, floats(shift), *numbers, *results
        )
    else:
        status = library().mmesbnn_sign_gradient(
            *operands, batch, channels, height * width, floats(shift), *numbers, *results
        )
    raise_for(status, 'sign_gradient')
    return grad, of_shift


def prelu_gradients(
    grad: np.ndarray, x: np.ndarray, slope: np.ndarray, *, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gradients of ``max(x, 0) + slope min(x, 0)``.

    Args:
        grad: Gradient of the result, float32 ``(N, C, H, W)``.
        x: float32 ``(N, C, H, W)``.
        slope: float32 ``(C,)``.
        threads: Number of threads. Default 1.

    Returns:
        Gradients of ``x`` and ``slope``. That of ``x`` is ``slope grad`` at 0, as torch's.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    x, grad = float_array('x', x, 4), float_array('grad', grad, 4)
    _check('grad', grad, x.shape)
    _check('slope', slope, x.shape[1:2])
    of_x, of_slope = np.empty_like(x), np.empty_like(slope)
    batch, channels, height, width = x.shape
    status = library().mmesbnn_prelu_gradients(
        floats(grad),
        floats(x),
        batch,
        channels,
        height * width,
        floats(slope),
        check_threads(threads),
        floats(of_x),
        floats(of_slope),
    )
    raise_for(status, 'prelu_gradients')
    return of_x, of_slope
