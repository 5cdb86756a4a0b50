"""Blocks of BI-DiffSR, with timestep-dependent parameters and ES. Needs torch only.

Every block has the argument ``bank``, one integer per image. Timesteps are divided into
``K`` equal spans, and shifts and activations have one set of parameters for each span.

Expanded features hold ``f = tau g`` copies of ``C`` channels, copy by copy. Blocks that
split, join or shuffle channels do so within each copy. A channel therefore has the same
meaning in all copies, and their mean (:func:`contract`) is a map without copies.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..binary import Expansion, ShrunkConv2d, tile
from ..binary.arguments import checked_layer
from ..binary.expansion import copy_signs, spread_thresholds
from ..binary.prelus import prelu
from ..checks import one_of, positive_int, probability

#: Initial slope of the activations for negative inputs, torch's default for a PReLU.
SLOPE = 0.25


def contract(x: Tensor, factor: int) -> Tensor:
    """Compute the mean over the copies: ``(N, f C, H, W)`` to ``(N, C, H, W)``."""
    return x if factor == 1 else x.unflatten(1, (factor, -1)).mean(1)


def halves(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Split every copy's channels into two halves, ``(N, f C/2, H, W)`` each."""
    first, second = x.unflatten(1, (factor, 2, -1)).unbind(2)
    return first.flatten(1, 2), second.flatten(1, 2)


def join(a: Tensor, b: Tensor, factor: int) -> Tensor:
    """Concatenate ``a`` and ``b`` within every copy."""
    parts = [part.unflatten(1, (factor, -1)) for part in (a, b)]
    return torch.cat(parts, 2).flatten(1, 2)


def shuffle(a: Tensor, b: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Shuffle the channels of two maps: ``[a odd, b even]`` and ``[a even, b odd]``.

    Channels are counted from 0 within every copy.
    """
    (a_even, a_odd), (b_even, b_odd) = (
        [half.flatten(1, 2) for half in x.unflatten(1, (factor, -1, 2)).unbind(3)] for x in (a, b)
    )
    return join(a_odd, b_even, factor), join(a_even, b_odd, factor)


class TimestepShift(nn.Module):
    """Layer ``y = x + b_k`` with a learnable shift per channel and bank ("TaR").

    Args:
        channels: ``C``, channels of one copy.
        banks: ``K``.
        copies: Number of copies in the input. Their shifts start at different values.
            Default 1.
        spread: Initial shifts lie evenly in ``[-spread, spread]``; a single copy has the
            shift 0. Default 0.5.

    Shape:
        ``(N, copies C, H, W)`` and ``(N,)`` to ``(N, copies C, H, W)``.
    """

    @checked_layer()
    def __init__(self, channels: int, banks: int, copies: int = 1, spread: float = 0.5) -> None:
        super().__init__()
        start = spread_thresholds(channels, copies, spread)
        self.bias = nn.Parameter(start.repeat(banks, 1))

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        """Shift each image of ``x`` with the parameters of its bank."""
        return x + self.bias[bank][:, :, None, None]


class TimestepRPReLU(nn.Module):
    """Layer that tiles ``x``, then ``y = prelu(x + b_k; a_k) + c_k`` ("TaA").

    The parameters are per channel and bank. Copies with equal parameters would stay equal
    in training, because no norm makes them differ here. The initial ``b`` of the copies
    therefore lie evenly in ``[-spread, spread]``, and the initial ``c`` is ``-prelu(b)``.
    The copies bend at different inputs, and all of them map 0 to 0.

    Other layers have a norm, in which the gain of a copy can start at -1. Here the slope
    has this role. A copy of sign -1 starts with ``a = -1``, so without shifts it is
    ``|x|``. A copy of sign +1 starts with ``a = 0.25``. For Gaussian ``x`` the two copies
    have a correlation of 0.34; with equal slopes it would be 1.

    Args:
        channels: Channels of the input.
        banks: ``K``.
        copies: Number of copies that the input is tiled to. Default 1.
        spread: Largest initial ``|b|``, in units of the input; a single copy has 0.
            Default 0.5, the standard deviation of the output of a new binary convolution.
        copy_init: Copies with the sign -1: none (``'alike'``), random ones (``'signs'``),
            or half of the copies of every channel (``'balanced'``), see
            :func:`~mmesbnn.binary.expansion.copy_signs`. All banks start with the same
            signs. Default ``'alike'``.

    Shape:
        ``(N, C, H, W)`` and ``(N,)`` to ``(N, copies C, H, W)``.

    Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution" (2024);
    Liu et al., "ReActNet" (2020), eq. 4.
    """

    @checked_layer()
    def __init__(
        self,
        channels: int,
        banks: int,
        copies: int = 1,
        spread: float = 0.5,
        copy_init: str = 'alike',
    ) -> None:
        super().__init__()
        start = spread_thresholds(channels, copies, spread).repeat(banks, 1)
        negative = (copy_signs(channels, copies, copy_init) < 0).to(start.device)
        slope = torch.where(negative, -1.0, SLOPE).repeat(banks, 1)
        self.copies = copies
        self.shift_in = nn.Parameter(start)
        self.slope = nn.Parameter(slope)
        self.shift_out = nn.Parameter(-prelu(start, slope))

    def _chosen(self, parameter: Tensor, bank: Tensor) -> Tensor:
        return parameter[bank].unflatten(1, (self.copies, -1))[..., None, None]

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        """Activate each image of ``x`` with the parameters of its bank."""
        # broadcasting over the copies saves the memory of tiling
        x = x.unsqueeze(1) + self._chosen(self.shift_in, bank)
        x = prelu(x, self._chosen(self.slope, bank))
        return (x + self._chosen(self.shift_out, bank)).flatten(1, 2)


class BIConv(nn.Module):
    """Binary convolution with a real shortcut; input and output have equal width.

    ``y = x + rprelu_k(tile(binary_conv(sign(x + b_k))))``, without a norm.

    Args:
        channels: ``C`` before expansion.
        kernel_size: 3 or 1, in pixels; zeros are padded after the sign.
        banks: ``K``.
        expansion: ES parameters.
        spread: Range of the copies' initial shifts, see :class:`TimestepRPReLU`.
        sign: Sign of the input, see :func:`mmesbnn.binary.build_sign`.
        weight_binarizer: As :class:`~mmesbnn.binary.BinaryConv2d`'s.
        copy_init: As :class:`TimestepRPReLU`'s. Default ``'alike'``.
        after_silu: Whether the input is the output of a SiLU, which is never below -0.28:
            with a shift of 0.5 a copy would have the sign +1 everywhere. The initial
            thresholds are then the SiLU's outputs at ``-spread`` to ``spread``. Default
            False.

    Raises:
        ValueError: If ``tau`` or ``groups`` do not divide ``channels``.

    Shape:
        ``(N, C tau g, H, W)`` and ``(N,)`` to ``(N, C tau g, H, W)``.

    Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution" (2024).
    """

    @checked_layer(kernel_size=one_of(1, 3))
    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        banks: int,
        expansion: Expansion,
        spread: float,
        sign: Any,
        weight_binarizer: Any,
        copy_init: str = 'alike',
        after_silu: bool = False,
    ) -> None:
        super().__init__()
        self.shift = TimestepShift(channels, banks, expansion.factor, spread)
        if after_silu:
            with torch.no_grad():
                self.shift.bias.copy_(-F.silu(-self.shift.bias))
        self.conv = ShrunkConv2d(
            channels,
            channels,
            kernel_size,
            padding=kernel_size // 2,
            expansion=expansion,
            sign=sign,
            weight_binarizer=weight_binarizer,
        )
        self.act = TimestepRPReLU(
            self.conv.out_channels, banks, expansion.copies, spread, copy_init
        )

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        """Convolve ``x``."""
        return x + self.act(self.conv(self.shift(x, bank)), bank)


class FloatConv(nn.Conv2d):
    """Full-precision convolution with the interface of :class:`BIConv`.

    Args:
        channels: Channels of input and output.
        kernel_size: 3 or 1, in pixels.

    Shape:
        ``(N, C, H, W)`` and an ignored ``bank`` to ``(N, C, H, W)``.
    """

    @checked_layer(kernel_size=one_of(1, 3))
    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve ``x``; the bank has no effect."""
        return super().forward(x)


def make_conv(
    channels: int, kernel_size: int, binary: dict[str, Any] | None, **options: Any
) -> nn.Module:
    """Build a :class:`BIConv` with the arguments ``binary``; with None a :class:`FloatConv`."""
    if binary is None:
        return FloatConv(channels, kernel_size)
    return BIConv(channels, kernel_size, **binary, **options)


def expansion_factor(binary: dict[str, Any] | None) -> int:
    """Return the factor by which features are wider in a block with these arguments."""
    return 1 if binary is None else binary['expansion'].factor


class Attention(nn.Module):
    """Full-precision self-attention with one head: ``x + tile(attend(mean(x)))``.

    ``attend`` normalizes, projects with 1x1 kernels, and attends over all pixels with the
    scale ``1 / sqrt(C)``. It reads the mean of the copies, and all copies get its result.

    Args:
        channels: ``C`` before expansion.
        norm_groups: Groups of the group norm.
        factor: Number of copies in the input.

    Shape:
        ``(N, C factor, H, W)``; the same out.
    """

    @checked_layer(norm_groups=positive_int, factor=positive_int)
    def __init__(self, channels: int, norm_groups: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the pixels of ``x``."""
        mean = contract(x, self.factor)
        tokens = self.qkv(self.norm(mean)).flatten(2).transpose(1, 2).unsqueeze(1)
        attended = F.scaled_dot_product_attention(*tokens.chunk(3, -1))
        attended = attended.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + tile(self.out(attended), self.factor)


class ResBlock(nn.Module):
    """Block ``h = conv(act(x)) + tile(W swish(e)); y = x + conv(dropout(act(h)))``.

    ``act`` is group norm, then swish. ``e`` is the embedding of the timestep. Each copy
    has its own ``norm_groups`` groups, so no group of a norm spans two copies.

    Args:
        channels: ``C`` before expansion.
        time_channels: Width of the timestep's embedding.
        norm_groups: Groups of the norms, for ``C`` channels.
        dropout: Probability that the second half drops an input.
        attention: Whether :class:`Attention` follows.
        binary: Arguments of :class:`BIConv`. With None convolutions are full precision,
            and features are not expanded.

    Raises:
        ValueError: If ``norm_groups`` does not divide ``channels``.

    Shape:
        ``(N, C tau g, H, W)``, ``(N, time_channels)`` and ``(N,)`` to
        ``(N, C tau g, H, W)``.
    """

    @checked_layer(time_channels=positive_int, norm_groups=positive_int, dropout=probability)
    def __init__(
        self,
        channels: int,
        time_channels: int,
        norm_groups: int,
        dropout: float,
        attention: bool,
        binary: dict[str, Any] | None,
    ) -> None:
        super().__init__()
        self.factor = factor = expansion_factor(binary)
        self.norm1 = nn.GroupNorm(norm_groups * factor, channels * factor)
        self.conv1 = make_conv(channels, 3, binary, after_silu=True)
        self.time = nn.Linear(time_channels, channels)
        self.norm2 = nn.GroupNorm(norm_groups * factor, channels * factor)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = make_conv(channels, 3, binary, after_silu=True)
        self.attention = Attention(channels, norm_groups, factor) if attention else None

    def forward(self, x: Tensor, time: Tensor, bank: Tensor) -> Tensor:
        """Compute the block's output for ``x``."""
        h = self.conv1(F.silu(self.norm1(x)), bank)
        h = h + tile(self.time(F.silu(time)), self.factor)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))), bank)
        y = h + x
        return y if self.attention is None else self.attention(y)


class CPDown(nn.Module):
    """Consistent-pixel downsampling: ``unshuffle(conv_1(x_1) + conv_2(x_2))``.

    ``x_1`` and ``x_2`` are the two halves of the channels. ``unshuffle`` moves 2x2 pixels
    into channels.

    Args:
        channels: ``C`` before expansion, even.
        binary: Arguments of :class:`BIConv`.

    Shape:
        ``(N, C tau g, H, W)`` and ``(N,)`` to ``(N, 2C tau g, H / 2, W / 2)``.
    """

    @checked_layer()
    def __init__(self, channels: int, binary: dict[str, Any]) -> None:
        super().__init__()
        self.factor = expansion_factor(binary)
        self.conv1 = make_conv(channels // 2, 3, binary)
        self.conv2 = make_conv(channels // 2, 3, binary)

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        """Halve the resolution of ``x``."""
        first, second = halves(x, self.factor)
        return F.pixel_unshuffle(self.conv1(first, bank) + self.conv2(second, bank), 2)


class CPUp(nn.Module):
    """Consistent-pixel upsampling: ``shuffle([conv_1(x), conv_2(x)])``.

    ``shuffle`` moves channels into 2x2 pixels.

    Args:
        channels: ``C`` before expansion.
        binary: Arguments of :class:`BIConv`.

    Shape:
        ``(N, C tau g, H, W)`` and ``(N,)`` to ``(N, C/2 tau g, 2H, 2W)``.
    """

    @checked_layer()
    def __init__(self, channels: int, binary: dict[str, Any]) -> None:
        super().__init__()
        self.factor = expansion_factor(binary)
        self.conv1 = make_conv(channels, 3, binary)
        self.conv2 = make_conv(channels, 3, binary)

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        """Double the resolution of ``x``."""
        both = join(self.conv1(x, bank), self.conv2(x, bank), self.factor)
        return F.pixel_shuffle(both, 2)
