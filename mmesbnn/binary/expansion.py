"""Arithmetic of expanding and shrinking (ES).

A binary convolution from ``C_i`` to ``C_o`` channels adds few +-1 products, so an output
entry can take few values only. ES with factor ``tau`` and ``g`` groups

- *expands*: features have ``C tau g`` channels instead of ``C``;
- *shrinks*: there are only ``C_o / tau`` kernels, of depth ``C_i tau``, in ``g`` groups;
- *tiles*: the ``C_o / tau`` outputs are copied ``tau^2 g`` times, to ``C_o tau g``
  channels; each copy then has its own batch-norm affine, PReLU and threshold.

The number of weights, ``(C_o / tau) (C_i tau) = C_o C_i``, and the number of
multiplications are those of the replaced convolution, but an entry sums ``tau`` times as
many products. With ``tau = groups = 1`` the layer is the replaced convolution, bit for
bit.

Source: Shi et al., "Expanding-and-Shrinking Binary Neural Networks", arXiv 2503.23709,
figures (b) and (c).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_positive
from .modes import plain_defaults
from .tracing import is_transformed, whole_function

#: Choices of the initial gains of an output's copies, see :func:`copy_signs`.
COPY_INITS = ('alike', 'signs', 'balanced')


@dataclass(frozen=True)
class Expansion:
    """The two ES parameters and the widths that follow from them.

    Args:
        tau: ES factor, >= 1: features become ``tau`` times wider, and there are ``tau``
            times fewer kernels. Default 1.
        groups: Groups of the convolution, >= 1: features become ``groups`` times wider.
            Default 1.

    Raises:
        ValueError: If one of them is not a positive integer.
    """

    tau: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        check_positive(tau=self.tau, groups=self.groups)

    @property
    def factor(self) -> int:
        """Factor by which features are wider: ``tau g``."""
        return self.tau * self.groups

    @property
    def copies(self) -> int:
        """Number of copies of a shrunk output: ``tau^2 g``."""
        return self.tau * self.factor

    def width(self, channels: int) -> int:
        """Return the width of expanded features, ``C tau g``."""
        return channels * self.factor

    def kernels(self, channels: int, name: str = 'out_channels') -> int:
        """Return the number of kernels for ``channels`` outputs, ``C / tau``.

        Args:
            channels: Output channels of the replaced convolution.
            name: Name of ``channels`` in the error message. Default 'out_channels'.

        Raises:
            ValueError: If ``tau`` does not divide ``channels``, or the ES groups do not
                divide ``channels / tau``.
        """
        if channels < 1 or channels % self.tau:
            raise ValueError(f'tau={self.tau} does not divide {name}={channels}')
        kernels = channels // self.tau
        if kernels % self.groups:
            raise ValueError(
                f'es_groups={self.groups} does not divide {name} / tau = '
                f'{channels} / {self.tau} = {kernels}; in backbones es_groups is called groups'
            )
        return kernels

    def in_words(self) -> str:
        """Return the parameters as a layer's repr shows them."""
        return f'tau={self.tau}, es_groups={self.groups}, copies={self.copies}'


def is_channels_last(x: Tensor) -> bool:
    """Return whether a map lies in channels-last memory, and not by chance in both layouts.

    False in transforms of ``torch.func``: ``vmap`` does not know the layout.
    """
    if x.dim() != 4 or x.is_contiguous() or is_transformed():
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


@whole_function
def like_layout(y: Tensor, x: Tensor) -> Tensor:
    """Return ``y`` in channels-last memory if ``x`` is; joining copies loses that layout."""
    return y.contiguous(memory_format=torch.channels_last) if is_channels_last(x) else y


def _trains_eagerly(x: Tensor) -> bool:
    if not isinstance(x, Tensor) or is_transformed() or torch.compiler.is_compiling():
        return False
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return x.requires_grad and torch.is_grad_enabled() and not traced


@whole_function
def tile(x: Tensor, copies: int, dim: int = 1) -> Tensor:
    """Concatenate ``copies`` copies of ``x`` along ``dim``: ``[x_1 .. x_n, x_1 ..]``.

    Args:
        x: Tensor of any shape.
        copies: Number of copies; 1 returns ``x`` itself.
        dim: Axis to tile. Default 1, the channels of ``(N, C, H, W)``.
    """
    if copies == 1:
        return x
    if _trains_eagerly(x):  # torch's repeat takes five times as long to start, as for gates
        return like_layout(torch.cat([x] * copies, dim), x)
    repeats = [1] * x.dim()
    repeats[dim] = copies
    return like_layout(x.repeat(repeats), x)


def tiled_affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute ``tile(x) * scale + shift`` without storing the tiled ``x``.

    Args:
        x: Small map ``(N, C, H, W)``.
        scale: One factor per tiled channel, ``(k C,)``.
        shift: One offset per tiled channel, ``(k C,)``.

    Returns:
        Tensor ``(N, k C, H, W)`` of ``x``'s dtype.
    """
    last = is_channels_last(x)  # then copies lie side by side in each pixel
    per_copy, axis = ((-1, x.shape[1]), 3) if last else ((-1, x.shape[1], 1, 1), 1)
    small = (x.permute(0, 2, 3, 1) if last else x).unsqueeze(axis)
    y = torch.addcmul(shift.view(per_copy), small, scale.view(per_copy))
    y = y.flatten(axis, axis + 1).to(x.dtype)
    return y.permute(0, 3, 1, 2) if last else y


def spread_thresholds(channels: int, copies: int, spread: float) -> Tensor:
    """Return initial shifts of ``copies`` copies, evenly from ``-spread`` to ``spread``.

    Copies with equal thresholds would be equal, so they start with different ones.

    Args:
        channels: Channels of one copy.
        copies: Number of copies; one copy has shift 0.
        spread: Largest magnitude, in units of the input.

    Returns:
        Tensor ``(copies * channels,)``, copy by copy.
    """
    steps = torch.linspace(-1, 1, copies) if copies > 1 else torch.zeros(1)
    return (spread * steps).repeat_interleave(channels)


def one_sided_thresholds(channels: int, copies: int, spread: float) -> Tensor:
    """Return initial shifts of ``copies`` copies, evenly from ``-2 spread`` to 0.

    For layers that do not know what their input has passed. The output of a ReLU is never
    negative, that of a SiLU or GELU hardly is, so a copy with a positive shift would have
    the sign +1 everywhere.

    Args:
        channels: Channels of one copy.
        copies: Number of copies; a single copy has the shift 0.
        spread: Half of the range, in units of the input.

    Returns:
        Tensor ``(copies * channels,)``, copy by copy.
    """
    shifts = spread_thresholds(channels, copies, spread)
    return shifts - shifts.max()


@plain_defaults()  # draws of other dtypes, or on other devices, would be others for a seed
def copy_signs(channels: int, copies: int, copy_init: str) -> Tensor:
    """Draw the initial signs of the gains of ``copies`` copies.

    With a negative gain the following PReLU bends at the other half of the values:
    ``prelu(-n)`` bends where ``n`` is positive. Copies with equal gains start identical
    and stay similar for a long time.

    Args:
        channels: Channels of one copy.
        copies: Number of copies. A single copy has +1, and nothing is drawn.
        copy_init: With ``'alike'`` all signs are +1, and nothing is drawn. With
            ``'signs'`` every channel and copy has +1 or -1 with equal probability. With
            ``'balanced'`` ``copies // 2`` of the copies of a channel have -1; all choices
            of them are equally likely.

    Returns:
        Tensor ``(copies * channels,)`` of +-1, copy by copy, in float32 on the CPU. Draws come
        from torch's global generator.
    """
    if copies == 1 or copy_init == 'alike':
        return torch.ones(copies * channels)
    if copy_init == 'signs':
        negative = torch.rand(copies, channels) < 0.5
    else:
        order = torch.rand(copies, channels).argsort(0).argsort(0)
        negative = order < copies // 2
    return torch.where(negative, -1.0, 1.0).flatten()
