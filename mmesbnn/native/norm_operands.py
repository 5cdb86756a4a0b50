"""Operands and results of training steps of batch norms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arguments import check_layout, check_operand, check_shape, float_array
from .library import NativeError


@dataclass(frozen=True)
class NormOperands:
    """Operands of a batch norm and the operations around it.

    ``out = act(gain (z - mean) / sqrt(variance + eps) + bias + residual) + shift`` with ``z = x``,
    ``gate x``, or ``gate x residual``, or ``scales x``. Mean and variance are those of a channel of
    ``z`` over batch and pixels. Each of the ``copies`` of ``z`` has ``C`` of the ``copies C``
    gains. ``act`` is a PReLU, or nothing if there is no slope. All arrays are float32, but ``x``
    with ``scales``.

    The ``x`` of a gate can be a result of an earlier norm that is not written. It is
    ``prelu(factor (scales sums) + offset)`` for copies of the sums, computed wherever it is read.

    Attributes:
        x: Map ``(N, C, H, W)``; with ``scales`` of int16; with ``unwritten`` of a divisor of ``C``
            channels.
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
        scales: For each channel of ``x``, for operands without a gate, or with ``unwritten``. Then
            ``x`` are sums of :func:`~mmesbnn.native.convolve_sums`, and ``z`` or ``scales sums`` is
            the result of :func:`~mmesbnn.native.convolve`. Default None.
        unwritten: ``(3, C)``: factor, offset and slope of each channel, as
            :func:`~mmesbnn.native.normalize` returns them. Default None.

    Raises:
        NativeError: If an array is of another type, or has a wrong shape or another layout, if
            a gate stands beside copies, slopes or scales, or if ``unwritten`` stands without gate
            and scales.
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
    unwritten: np.ndarray | None = None

    def __post_init__(self) -> None:
        kind = np.float32 if self.scales is None else np.int16
        check_layout('x', self.x, self.channels_last, kind)
        if self.copies < 1:
            raise NativeError(f'copies={self.copies} must be at least 1')
        self._check_unwritten()
        beside = self.slope is not None or (self.scales is not None and self.unwritten is None)
        if self.gate is not None and (self.copies > 1 or beside or self.channels_last):
            raise NativeError(
                'gate is for one copy without slope and scales, not channels last in memory'
            )
        if self.multiplies and (self.gate is None or self.residual is None):
            raise NativeError('multiplies=True needs gate and residual')
        per_channel, batch = (self.wide,), len(self.x)
        check_operand('scales', self.scales, self.x.shape[1:2])
        check_operand('gain', self.gain, per_channel)
        check_operand('bias', self.bias, per_channel)
        check_operand('gate', self.gate, (batch, self.channels))
        self._check_residual()
        check_operand('slope', self.slope, per_channel)
        check_operand('shift', self.shift, per_channel)

    def check_map(self, name: str, value: np.ndarray | None) -> None:
        """Check the shape of the result, and the layout, which is that of ``x``."""
        if value is None:
            return
        check_shape(name, value, self.shape)
        check_layout(name, value, self.channels_last)

    def _check_unwritten(self) -> None:
        if self.unwritten is None:
            return
        if self.gate is None or self.scales is None:
            raise NativeError('unwritten is for operands with a gate and scales')
        float_array('unwritten', self.unwritten, 2)
        small = self.x.shape[1]
        if self.channels % small:
            raise NativeError(
                f'unwritten has the shape {self.unwritten.shape}; it must be (3, C) for a '
                f'multiple C of the {small} channels of x'
            )
        check_operand('unwritten', self.unwritten, (3, self.channels))

    def _check_residual(self) -> None:
        if self.residual is None or not self.channels_last:
            self.check_map('residual', self.residual)
            return
        check_layout('residual', self.residual, True)
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
    def channels(self) -> int:
        """Number of channels of ``z``."""
        return self.x.shape[1] if self.unwritten is None else self.unwritten.shape[-1]

    @property
    def wide(self) -> int:
        """Number of channels of the result."""
        return self.copies * self.channels

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result, ``(N, copies C, H, W)``."""
        batch, _, *size = self.x.shape
        return (batch, self.wide, *size)


@dataclass(frozen=True)
class Normalized:
    """Result of :func:`~mmesbnn.native.normalize`.

    Attributes:
        out: Map ``(N, copies C, H, W)``; None if it is not written.
        means: Means of ``out`` over its pixels, ``(N, copies C)``, or None.
        stats: ``(3, C)``: mean, ``1 / sqrt(variance + eps)``, and variance of ``z``.
        unwritten: ``(3, copies C)``: numbers that make ``out`` of sums if it is not written.
            Default None.
    """

    out: np.ndarray | None
    means: np.ndarray | None
    stats: np.ndarray
    unwritten: np.ndarray | None = None


@dataclass(frozen=True)
class NormGradients:
    """Gradients of the :class:`NormOperands` of the same names; None where there is no operand.

    ``x`` is the gradient of ``scales x`` where there are scales, and that of all channels of ``x``
    where it is not written. ``residual`` is None, too, if there is neither slope nor product nor
    repetition: its gradient is that of the result.
    """

    x: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    gate: np.ndarray | None
    residual: np.ndarray | None
    slope: np.ndarray | None
    shift: np.ndarray | None
