"""Branches of a Transformer block that are scaled per channel of tokens and added."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...binary.native_mode import array_of
from ...binary.native_training import are_float32, is_own, trains_tokens_natively
from ...binary.once_differentiable import once_differentiable
from ...binary.precision import in_full_precision
from ...binary.signs import compiles_for_speed, needs_grad
from ...binary.tokens import map_of, tokens_of
from ...binary.tracing import is_seen
from ...native import add_cross, cross_gradients
from .pooling import padded_average

#: Initial factors of the pooling branches.
POOL_SCALE = 0.0


class LayerScale(nn.Module):
    """Layer ``y = a x + m`` with learnable ``a`` and ``m`` per channel of tokens.

    Args:
        channels: ``C`` of the tokens ``(N, L, C)``.
        scale: Initial ``a``; the initial ``m`` is 0.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift ``x``."""
        return x * self.scale + self.shift


class PoolBranches(nn.Module):
    """Pooling branches ``sum_k a_k P_k(x) + m_k`` with poolings ``1 x k`` and ``k x 1``.

    ``P_k`` averages padded zeros, too. All ``a`` and ``m`` start at 0. In training the sum is
    computed as a convolution of every channel with a cross of taps, which stores no poolings.

    Args:
        channels: Channels of the tokens.
        sizes: Odd sizes ``k``.
    """

    def __init__(self, channels: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.kernels = [kernel for k in sizes for kernel in ((k, 1), (1, k))]
        self.scales = nn.ModuleList(LayerScale(channels, POOL_SCALE) for _ in self.kernels)

    def forward(self, y: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Add the branches of the tokens ``x`` to ``y``."""
        if _add_natively(y, x, *self.scales):
            return _AddCross.apply(y, x, *self._cross(torch.float32), size)
        if self._is_differentiated(x):
            wide = in_full_precision(x)
            taps, shift = self._cross(wide.dtype)
            added = tokens_of(_convolve_cross(map_of(wide, size), taps, shift))
            # the dtype of x times a scale; torch.compile cannot trace torch.result_type
            lowered = x.dtype == _own(self.scales[0]).scale.dtype
            return y + (added.to(x.dtype) if lowered else added)
        x = map_of(x, size)
        for kernel, scale in zip(self.kernels, self.scales):
            y = y + scale(tokens_of(padded_average(x, kernel)))
        return y

    def _is_differentiated(self, x: Tensor) -> bool:
        # torch.export shows the published operators
        if torch.compiler.is_compiling() and not compiles_for_speed():
            return False
        own = _are_plain(*self.scales)
        return own and any(needs_grad(one) for one in (x, *self.scales.parameters()))

    def _cross(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the taps ``(4 r + 1, C)`` of the sum of all branches, and its shift."""
        own = [_own(scale) for scale in self.scales]
        scales = torch.stack([one.scale for one in own]).to(dtype)
        # torch.compile warns about cached functions; a mode, such as that of fake tensors, would
        # leave tensors of its own in the cache
        windows = _windows.__wrapped__ if is_seen(scales) else _windows
        shares = windows(tuple(self.kernels), scales.dtype, scales.device)
        with _full_precision(scales):
            taps = shares @ scales
        return taps, torch.stack([one.shift for one in own]).to(dtype).sum(0)


def add_scaled(y: Tensor, x: Tensor, scale: nn.Module) -> Tensor:
    """Compute ``y + scale(x)``.

    Args:
        y: Tokens ``(N, L, C)``.
        x: Tokens ``(N, L, C)``.
        scale: :class:`LayerScale`, or another layer.
    """
    if _add_natively(y, x, scale):
        own = _own(scale)
        return _AddCross.apply(y, x, own.scale[None], own.shift, (x.shape[1], 1))
    return y + scale(x)


def _own(scale: nn.Module) -> LayerScale:
    return cast(LayerScale, scale)


def _are_plain(*scales: nn.Module) -> bool:
    return len(scales) > 0 and all(is_own(one, LayerScale) for one in scales)


def _add_natively(y: Tensor, x: Tensor, *scales: nn.Module) -> bool:
    if not trains_tokens_natively(y, x) or y.shape != x.shape:
        return False
    return _are_plain(*scales) and are_float32(*scales)


@lru_cache(maxsize=64)
def _windows(
    kernels: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return what each kernel's factor adds to each tap of a cross, ``(4 r + 1, kernels)``."""
    reach = max(max(kernel) // 2 for kernel in kernels)
    shares = [[1 / (rows * columns) for rows, columns in kernels]]
    for far in range(1, reach + 1):
        of_column, of_row = (
            [1 / max(kernel) if far <= kernel[axis] // 2 else 0.0 for kernel in kernels]
            for axis in (0, 1)
        )
        shares += [of_column, of_column, of_row, of_row]
    return torch.tensor(shares, dtype=dtype, device=device)


def _full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast, which would round taps and maps to half precision."""
    if x.is_meta:  # torch raises when asked for autocast on 'meta'
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def _convolve_cross(x: Tensor, taps: Tensor, shift: Tensor) -> Tensor:
    """Convolve each channel of a map with its column and its row of a cross.

    Args:
        x: Map ``(N, C, H, W)``, padded with zeros.
        taps: ``(4 r + 1, C)``: the centre, then at each distance above, below, left, right.
        shift: ``(C,)``, added everywhere.
    """
    channels, reach = x.shape[1], len(taps) // 4
    above, below, left, right = taps[1:].unflatten(0, (reach, 4)).unbind(1)
    column = torch.cat([above.flip(0), taps[:1], below])
    row = torch.cat([left.flip(0), torch.zeros_like(taps[:1]), right])
    with _full_precision(x):
        y = F.conv2d(x, column.T[:, None, :, None], shift, 1, (reach, 0), 1, channels)
        return y + F.conv2d(x, row.T[:, None, None, :], None, 1, (0, reach), 1, channels)


class _AddCross(torch.autograd.Function):
    """Step ``y + shift + conv(x)`` of :func:`mmesbnn.native.add_cross`, for tokens."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, taps: Tensor, shift: Tensor, size: tuple[int, int]
    ) -> Tensor:
        ctx.size = size
        ctx.save_for_backward(x, taps)
        out = add_cross(
            _pixels(y, size),
            _pixels(x, size),
            array_of(taps),
            array_of(shift),
            threads=torch.get_num_threads(),
        )
        return torch.from_numpy(out.reshape(x.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, taps = ctx.saved_tensors
        found = cross_gradients(
            _pixels(grad, ctx.size),
            _pixels(x, ctx.size),
            array_of(taps),
            threads=torch.get_num_threads(),
        )
        of_x = torch.from_numpy(found.x.reshape(x.shape))
        return grad, of_x, torch.from_numpy(found.taps), torch.from_numpy(found.shift), None


def _pixels(x: Tensor, size: tuple[int, int]) -> Any:
    return x.detach().contiguous().numpy().reshape(len(x), *size, x.shape[2])
