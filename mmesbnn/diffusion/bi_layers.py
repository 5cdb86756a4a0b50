"""The blocks that BI-DiffSR is made of, timestep-aware and expandable. Pure torch.

Every block takes ``bank``, one integer per image: timesteps are divided into ``K``
equal spans, and shifts and activations have one set of parameters for each.

Expanded features hold ``f = tau g`` copies of ``C`` channels, copy by copy. Blocks that
split, join or shuffle channels do so within each copy, so a channel means the same in
all of them, and their mean (:func:`contract`) is a plain map again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..binary import Expansion, ShrunkConv2d, tile
from ..binary.arguments import checked_layer
from ..binary.expansion import copy_signs, spread_thresholds
from ..binary.layers import prelu
from ..checks import one_of, positive_int, probability

#: Initial slope of the activations for negative inputs, torch's default for a PReLU.
SLOPE = 0.25


def contract(x: Tensor, factor: int) -> Tensor:
    """Mean over the copies: ``(N, f C, H, W)`` to ``(N, C, H, W)``."""
    return x if factor == 1 else x.unflatten(1, (factor, -1)).mean(1)


def halves(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """First and second half of every copy's channels, ``(N, f C/2, H, W)`` each."""
    first, second = x.unflatten(1, (factor, 2, -1)).unbind(2)
    return first.flatten(1, 2), second.flatten(1, 2)


def join(a: Tensor, b: Tensor, factor: int) -> Tensor:
    """Concatenate ``a`` and ``b`` within every copy."""
    parts = [part.unflatten(1, (factor, -1)) for part in (a, b)]
    return torch.cat(parts, 2).flatten(1, 2)


def shuffle(a: Tensor, b: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Channel shuffle of two maps: ``[a odd, b even]`` and ``[a even, b odd]``.

    Channels are counted from 0 within every copy.
    """
    (a_even, a_odd), (b_even, b_odd) = (
        [half.flatten(1, 2) for half in x.unflatten(1, (factor, -1, 2)).unbind(3)] for x in (a, b)
    )
    return join(a_odd, b_even, factor), join(a_even, b_odd, factor)


class TimestepShift(nn.Module):
    """``y = x + b_k``: a learnable shift per channel and bank ("TaR").

    Args:
        channels: ``C``, channels of one copy.
        banks: ``K``.
        copies: Copies in the input, whose shifts start at different values. Default 1.
        spread: They start evenly in ``[-spread, spread]``; one copy at 0. Default 0.5.

    Shape:
        ``(N, copies C, H, W)`` and ``(N,)`` to ``(N, copies C, H, W)``.
    """

    @checked_layer()
    def __init__(self, channels: int, banks: int, copies: int = 1, spread: float = 0.5) -> None:
        super().__init__()
        start = spread_thresholds(channels, copies, spread)
        self.bias = nn.Parameter(start.repeat(banks, 1))

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        """Shift ``x``, every image by its bank."""
        return x + self.bias[bank][:, :, None, None]


class TimestepRPReLU(nn.Module):
    """Tile, then ``y = prelu(x + b_k; a_k) + c_k`` per channel and bank ("TaA").

    Copies that start alike would learn alike, and no norm makes them differ here. So
    ``b`` starts evenly in ``[-spread, spread]`` from copy to copy, and ``c`` at
    ``-prelu(b)``: copies bend at different inputs, and all map 0 to 0.

    Other layers have a norm, whose gain of a copy can start at -1. What corresponds to
    it here is the slope: a copy of sign -1 starts with ``a = -1``, so that without
    shifts it is ``|x|``, and one of sign +1 with 0.25. For Gaussian ``x`` the two have
    a correlation of 0.34, where slopes of 0.25 give 1.

    Args:
        channels: Channels of the input.
        banks: ``K``.
        copies: How many times the input is tiled. Default 1.
        spread: Largest ``|b|`` at the start, in units of the input; one copy has 0.
            Default 0.5, the standard deviation of a fresh binary convolution.
        copy_init: Which copies have the sign -1: none (``'alike'``), those that a coin
            says (``'signs'``), or half of those of every channel (``'balanced'``), see
            :func:`~mmesbnn.binary.expansion.copy_signs`. Banks start alike. Default
            ``'alike'``.

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
        negative = copy_signs(channels, copies, copy_init) < 0
        slope = torch.where(negative, -1.0, SLOPE).repeat(banks, 1)
        self.copies = copies
        self.shift_in = nn.Parameter(start)
        self.slope = nn.Parameter(slope)
        self.shift_out = nn.Parameter(-prelu(start, slope))

    def _chosen(self, parameter: Tensor, bank: Tensor) -> Tensor:
        return parameter[bank].unflatten(1, (self.copies, -1))[..., None, None]

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        """Activate ``x``, every image by its bank."""
        # broadcast over the copies rather than tile
        x = x.unsqueeze(1) + self._chosen(self.shift_in, bank)
        x = prelu(x, self._chosen(self.slope, bank))
        return (x + self._chosen(self.shift_out, bank)).flatten(1, 2)


class BIConv(nn.Module):
    """Binary convolution of equal width with a real shortcut.

    ``y = x + rprelu_k(tile(binary_conv(sign(x + b_k))))``, without a norm.

    Args:
        channels: ``C`` before expansion.
        kernel_size: 3 or 1, in pixels; zeros are padded after the sign.
        banks: ``K``.
        expansion: ES parameters.
        spread: How far copies start apart, see :class:`TimestepRPReLU`.
        sign_zero: What sign(0) is, -1 or 0.
        copy_init: As :class:`TimestepRPReLU`'s. Default ``'alike'``.

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
        sign_zero: int,
        copy_init: str = 'alike',
    ) -> None:
        super().__init__()
        self.shift = TimestepShift(channels, banks, expansion.factor, spread)
        self.conv = ShrunkConv2d(
            channels,
            channels,
            kernel_size,
            padding=kernel_size // 2,
            expansion=expansion,
            sign=dict(type='quadratic', zero=sign_zero),
            weight_binarizer=dict(type='scaled_sign', zero=sign_zero),
        )
        self.act = TimestepRPReLU(
            self.conv.out_channels, banks, expansion.copies, spread, copy_init
        )

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        """Convolve ``x``."""
        return x + self.act(self.conv(self.shift(x, bank)), bank)


class FloatConv(nn.Conv2d):
    """A plain convolution in the place of a :class:`BIConv`.

    Args:
        channels: Channels in and out.
        kernel_size: 3 or 1, in pixels.

    Shape:
        ``(N, C, H, W)`` and anything to ``(N, C, H, W)``.
    """

    @checked_layer(kernel_size=one_of(1, 3))
    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve ``x``, whatever the timestep."""
        return super().forward(x)


def make_conv(channels: int, kernel_size: int, binary: dict[str, Any] | None) -> nn.Module:
    """A :class:`BIConv` with the arguments ``binary``, or a :class:`FloatConv`."""
    if binary is None:
        return FloatConv(channels, kernel_size)
    return BIConv(channels, kernel_size, **binary)


def expansion_factor(binary: dict[str, Any] | None) -> int:
    """How much wider features are in a block with these arguments."""
    return 1 if binary is None else binary['expansion'].factor


class Attention(nn.Module):
    """Full-precision self-attention with one head: ``x + tile(attend(mean(x)))``.

    ``attend`` normalises, projects with 1x1 kernels, and attends over all pixels with
    the scale ``1 / sqrt(C)``. Copies are averaged for it, and all get its result.

    Args:
        channels: ``C`` before expansion.
        norm_groups: Groups of the group norm.
        factor: Copies in the input.

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
    """``h = conv(act(x)) + tile(W swish(e)); y = x + conv(dropout(act(h)))``.

    ``act`` is group norm, then swish; ``e`` the embedding of the timestep. No group of
    a norm spans two copies: there are ``norm_groups`` for each.

    Args:
        channels: ``C`` before expansion.
        time_channels: Width of the timestep's embedding.
        norm_groups: Groups of the norms, for ``C`` channels.
        dropout: Probability that the second half drops an input.
        attention: Whether :class:`Attention` follows.
        binary: Arguments of :class:`BIConv`; None for plain convolutions, and plain
            features.

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
        self.conv1 = make_conv(channels, 3, binary)
        self.time = nn.Linear(time_channels, channels)
        self.norm2 = nn.GroupNorm(norm_groups * factor, channels * factor)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = make_conv(channels, 3, binary)
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

    ``x_1`` and ``x_2`` are the halves of the channels, ``unshuffle`` moves 2x2 pixels
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


class CSFusion(nn.Module):
    """Channel-shuffle fusion: ``conv_1([x odd, s even]) + conv_2([x even, s odd])``.

    Args:
        channels: ``C`` of either input, before expansion; even.
        binary: Arguments of :class:`BIConv`; None for plain convolutions.

    Shape:
        Twice ``(N, C tau g, H, W)``, and ``(N,)``, to ``(N, C tau g, H, W)``.
    """

    @checked_layer()
    def __init__(self, channels: int, binary: dict[str, Any] | None) -> None:
        super().__init__()
        self.factor = expansion_factor(binary)
        self.conv1 = make_conv(channels, 1, binary)
        self.conv2 = make_conv(channels, 1, binary)

    def forward(self, x: Tensor, skip: Tensor, bank: Tensor) -> Tensor:
        """Fuse ``x`` with the encoder's ``skip``."""
        first, second = shuffle(x, skip, self.factor)
        return self.conv1(first, bank) + self.conv2(second, bank)


class Checkpointing(nn.Module):
    """Runs modules, and recomputes them if diffusers' switch for that is on.

    ``enable_gradient_checkpointing`` sets the two attributes of every module that has
    the first one.
    """

    _gradient_checkpointing_func: Callable[..., Any]

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    def run(self, block: nn.Module, *args: Tensor) -> Tensor:
        """Compute ``block(*args)``."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)


class EncoderLevel(Checkpointing):
    """One resolution of the encoder: blocks, then the way down.

    Args:
        blocks: :class:`ResBlock` modules.
        resample: What leads to the next level, None in the last one.

    Shape:
        ``(N, C, H, W)``, ``(N, time_channels)`` and ``(N,)`` to a list of maps.
    """

    def __init__(self, blocks: Sequence[nn.Module], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample

    def forward(self, x: Tensor, time: Tensor, bank: Tensor) -> list[Tensor]:
        """Compute the outputs of all blocks, and of the downsampling, for ``x``."""
        outputs = []
        for block in self.blocks:
            x = self.run(block, x, time, bank)
            outputs.append(x)
        if self.resample is not None:
            outputs.append(self.run(self.resample, x, bank))
        return outputs


class DecoderLevel(Checkpointing):
    """One resolution of the decoder: fusions and blocks, then the way up.

    Args:
        blocks: :class:`ResBlock` modules.
        fusions: A :class:`CSFusion` before each of them.
        resample: What leads to the next level, None in the last one.
        factor: Copies in the features around a level whose own are not expanded; they
            are averaged before it and tiled after it. 1 if its own are expanded.

    Shape:
        ``(N, C, H, W)``, a list of skips, one per block, ``(N, time_channels)`` and
        ``(N,)`` to a map. The last level's output is not tiled.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        fusions: list[nn.Module],
        resample: nn.Module | None,
        factor: int,
    ) -> None:
        super().__init__()
        self.fusions = nn.ModuleList(fusions)
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample
        self.factor = factor

    def forward(self, x: Tensor, skips: Sequence[Tensor], time: Tensor, bank: Tensor) -> Tensor:
        """Compute the level's output for ``x`` and the encoder's ``skips``."""
        x = contract(x, self.factor)
        for fusion, block, skip in zip(self.fusions, self.blocks, skips):
            x = self.run(fusion, x, contract(skip, self.factor), bank)
            x = self.run(block, x, time, bank)
        if self.resample is not None:
            x = self.run(self.resample, tile(x, self.factor), bank)
        return x
