"""UNet of BI-DiffSR as a diffusers model; binary, with ES parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config

# diffusers looks ModelMixin up in this module when it loads a whole pipeline
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from ..binary import Expansion, tile
from ..binary.arguments import checked_layer
from ..binary.entries import with_zero
from ..binary.precision import wide_dtype
from ..checks import integer, natural, one_of, positive_int, probability, sequence, shown
from .bi_layers import CPDown, CPUp, ResBlock, contract
from .bi_levels import CSFusion, DecoderLevel, EncoderLevel
from .folders import LocalModel
from .named import NAMED

#: Longest wavelength of the timestep's encoding, in units of 2 pi.
MAX_PERIOD = 1e4
#: Largest number of levels, each of twice the channels. A config in a file can hold any number.
MOST_LEVELS = 16


def encode_timesteps(timesteps: Tensor, channels: int) -> Tensor:
    """Return ``[sin(w t), cos(w t)]``, ``w_i = 10^(-4 i / (C/2))``, ``i = 0 .. C/2 - 1``.

    Args:
        timesteps: ``(N,)``, of a floating dtype.
        channels: ``C``, even.

    Returns:
        Tensor ``(N, C)`` of ``timesteps``' dtype.
    """
    count = channels // 2
    steps = torch.arange(count, dtype=timesteps.dtype, device=timesteps.device) / count
    angles = timesteps[:, None] * torch.exp(-math.log(MAX_PERIOD) * steps)
    return torch.cat([angles.sin(), angles.cos()], 1)


def bank_of(timesteps: Tensor, banks: int, total_steps: int) -> Tensor:
    """Return the banks ``floor(t K / T)``, clamped to ``0 .. K - 1``, as int64."""
    if timesteps.is_floating_point():  # float16 has no odd numbers above 2048
        timesteps = timesteps.to(wide_dtype(timesteps.dtype))
    index = torch.div(timesteps * banks, total_steps, rounding_mode='floor')
    return index.long().clamp(0, banks - 1)


def _as_tensor(timesteps: Tensor | float, device: torch.device | str) -> Tensor:
    """Return timesteps as a tensor; torch's default dtype can be too coarse for a float."""
    dtype = torch.float32 if isinstance(timesteps, float) else None
    return torch.as_tensor(timesteps, dtype=dtype, device=device)


def check_timesteps(timesteps: Tensor | float, total_steps: int) -> None:
    """Raise a ``ValueError`` if a timestep is no number, or outside ``0 .. total_steps - 1``.

    It reads the values, so it waits for a tensor on an accelerator.
    """
    try:
        t = _as_tensor(timesteps, getattr(timesteps, 'device', 'cpu'))
    except (RuntimeError, TypeError, ValueError):
        t = None
    if t is None or t.is_complex():
        raise ValueError(f'{shown("timestep", timesteps)} must be a number, or one for each image')
    outside = t[~((t >= 0) & (t <= total_steps - 1))]
    if outside.numel():
        raise ValueError(
            f'timestep={outside[0].item():g} is outside the schedule of '
            f'total_steps={total_steps}: 0 to {total_steps - 1}'
        )


def _has_values(x: Any) -> bool:
    """Return True if ``x`` can be read without a graph break or a synchronisation."""
    if not isinstance(x, Tensor):
        return True
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
    looking_on = torch.compiler.is_compiling() or tracing
    # a subclass may be a fake tensor
    return type(x) is Tensor and x.device.type == 'cpu' and not looking_on


def _check_levels(name: str, levels: Sequence[int], num_levels: int) -> frozenset[int]:
    if not all(level < num_levels for level in levels):
        raise ValueError(
            f'{name}={list(levels)}: with num_levels={num_levels} levels are 0 to {num_levels - 1}'
        )
    return frozenset(levels)


class BIDiffSRUNet(LocalModel, ModelMixin, ConfigMixin):  # type: ignore[misc]  # two config_names
    """UNet of BI-DiffSR, and its ES variant with ``tau > 1`` or ``groups > 1``.

    Level ``i`` has ``base_channels 2^i`` channels at ``1 / 2^i`` of the resolution. All
    convolutions are binary, except the first, the last, attention, and the decoder's
    ``fp_levels``. The timestep of each image selects the shifts and activations of the
    binary convolutions.

    With ES, binary features are ``C tau g`` wide. The number of multiplications and weight
    bits does not change. Full-precision layers gain nothing from expansion, so they read
    the mean over the copies, at the width and cost of ``tau = 1``.

    Args:
        in_channels: Channels of the input, condition and noisy image. Default 6.
        out_channels: Channels of the prediction. Default 3.
        base_channels: Channels of level 0, even. Default 64.
        num_levels: Number of resolutions, 1 to 16. Default 4.
        blocks_per_level: Residual blocks per level in the encoder. The decoder has one
            block more per level. Default 2.
        norm_groups: Groups of the group norms. Default 16.
        dropout: Probability that a residual block drops an input. Default 0.2.
        attn_levels: Levels with attention in every block. The first block after the
            encoder, at the lowest resolution, always has attention. Default ``()``.
        fp_levels: Levels whose decoder is full precision, except the upsampling after
            it. Default ``(0, 1)``.
        total_steps: ``T``, number of timesteps of the training schedule. Default 2000.
        banks: ``K``, number of equal spans of timesteps. Each span has its own shifts and
            activations. Default 5.
        bank_from: With ``'each'`` the timestep of each image selects its bank. With
            ``'first'`` all images use the bank of the first one, as in the published
            code; with mixed timesteps in a batch use this for comparison only. Default
            ``'each'``.
        tau: ES factor. Default 1, the baseline.
        groups: ES groups. Default 1.
        spread: Range ``[-spread, spread]`` of the copies' initial shifts, in units of a
            binary convolution's output. Default 0.5.
        sign_zero: Value of sign(0): -1, or 0 as in the published code. Default -1.
        copy_init: Initial slopes of the copies of a convolution's output: ``'alike'``,
            ``'signs'`` or ``'balanced'``, see
            :class:`~mmesbnn.diffusion.bi_layers.TimestepRPReLU`. Default ``'alike'``.
        sign: Sign of the activations, a name or a dict of
            :func:`mmesbnn.binary.build_sign`. Default ``'quadratic'``, as published.
        weight_binarizer: Binarizer of the weights, a name or a dict of
            :func:`mmesbnn.binary.build_weight_binarizer`. Default ``'scaled_sign'``, as
            published.

    Raises:
        ValueError: At construction, if an argument is not one of the allowed values, or
            if ``norm_groups``, ``tau`` or ``groups`` do not divide a width.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``; height and width must
        be multiples of ``size_factor``, ``2^(num_levels - 1)``.

    Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution",
    arXiv 2406.05723; Shi et al., "Expanding-and-Shrinking Binary Neural Networks",
    arXiv 2503.23709.
    """

    config: Any  # of diffusers: its entries are attributes, too

    _supports_gradient_checkpointing = True
    #: What diffusers' ``compile_repeated_blocks`` compiles.
    _repeated_blocks = ['ResBlock', 'CSFusion', 'CPDown', 'CPUp']

    @register_to_config
    @checked_layer(
        base_channels=positive_int,
        num_levels=integer(1, MOST_LEVELS),
        blocks_per_level=positive_int,
        norm_groups=positive_int,
        dropout=probability,
        attn_levels=sequence(natural),
        fp_levels=sequence(natural),
        total_steps=positive_int,
        bank_from=one_of('each', 'first'),
        sign=NAMED,
        weight_binarizer=NAMED,
    )
    def __init__(
        self,
        in_channels: int = 6,
        out_channels: int = 3,
        base_channels: int = 64,
        num_levels: int = 4,
        blocks_per_level: int = 2,
        norm_groups: int = 16,
        dropout: float = 0.2,
        attn_levels: Sequence[int] = (),
        fp_levels: Sequence[int] = (0, 1),
        total_steps: int = 2000,
        banks: int = 5,
        bank_from: str = 'each',
        tau: int = 1,
        groups: int = 1,
        spread: float = 0.5,
        sign_zero: int = -1,
        copy_init: str = 'alike',
        sign: str | dict[str, Any] = 'quadratic',
        weight_binarizer: str | dict[str, Any] = 'scaled_sign',
    ) -> None:
        super().__init__()
        if base_channels % 2 or base_channels % norm_groups:
            raise ValueError(
                f'base_channels={base_channels} must be even and divisible by '
                f'norm_groups={norm_groups}'
            )
        self.expansion = Expansion(tau, groups)
        self.gradient_checkpointing = False
        self._binary = dict(
            banks=banks,
            expansion=self.expansion,
            spread=spread,
            copy_init=copy_init,
            **with_zero(sign, weight_binarizer, sign_zero),
        )
        self._attn = _check_levels('attn_levels', attn_levels, num_levels)
        self._plain = _check_levels('fp_levels', fp_levels, num_levels)
        widths = [base_channels * 2**i for i in range(num_levels)]
        self.time_embedding = nn.Sequential(
            nn.Linear(base_channels, 4 * base_channels),
            nn.SiLU(),
            nn.Linear(4 * base_channels, base_channels),
        )
        self.conv_in = nn.Conv2d(in_channels, base_channels, 3, padding=1)
        self.encoder = nn.ModuleList(self._encoder_level(i, w) for i, w in enumerate(widths))
        self.middle = nn.ModuleList(
            self._block(widths[-1], attention, self._binary) for attention in (True, False)
        )
        self.decoder = nn.ModuleList(
            self._decoder_level(i, widths[i]) for i in reversed(range(num_levels))
        )
        self.norm_out = nn.GroupNorm(norm_groups, base_channels)
        self.conv_out = nn.Conv2d(base_channels, out_channels, 3, padding=1)

    def _block(self, width: int, attention: bool, binary: dict[str, Any] | None) -> ResBlock:
        config = self.config
        return ResBlock(
            width, config.base_channels, config.norm_groups, config.dropout, attention, binary
        )

    def _encoder_level(self, level: int, width: int) -> EncoderLevel:
        config = self.config
        blocks = [
            self._block(width, level in self._attn, self._binary)
            for _ in range(config.blocks_per_level)
        ]
        last = level == config.num_levels - 1
        return EncoderLevel(blocks, None if last else CPDown(width, self._binary))

    def _decoder_level(self, level: int, width: int) -> DecoderLevel:
        plain = level in self._plain
        binary = None if plain else self._binary
        count = self.config.blocks_per_level + 1
        return DecoderLevel(
            [self._block(width, level in self._attn, binary) for _ in range(count)],
            [CSFusion(width, binary) for _ in range(count)],
            CPUp(width, self._binary) if level else None,
            self.expansion.factor if plain else 1,
        )

    @property
    def size_factor(self) -> int:
        """Number that must divide height and width."""
        return 2 ** (self.config.num_levels - 1)

    def _check_sample(self, sample: Tensor) -> None:
        channels, factor = self.config.in_channels, self.size_factor
        if not isinstance(sample, Tensor):
            raise ValueError(f'sample is a {type(sample).__name__}, not a tensor')
        if sample.dim() != 4 or sample.shape[1] != channels:
            raise ValueError(f'sample has shape {tuple(sample.shape)}, not (N, {channels}, H, W)')
        height, width = sample.shape[2:]
        if not height or not width or height % factor or width % factor:
            raise ValueError(
                f'sample is {height} x {width} pixels, which must be multiples of '
                f'{factor}: pad it (SRDiffusionPipeline does)'
            )

    def _timesteps(self, timestep: Tensor | float, sample: Tensor) -> Tensor:
        """Return one timestep per image, on the sample's device."""
        if _has_values(timestep):
            check_timesteps(timestep, self.config.total_steps)
        timesteps = _as_tensor(timestep, sample.device).flatten()
        if timesteps.numel() not in (1, len(sample)):
            raise ValueError(
                f'timestep has {timesteps.numel()} entries, but the batch has {len(sample)}'
            )
        return timesteps.expand(len(sample))

    def _banks(self, timesteps: Tensor) -> Tensor:
        bank = bank_of(timesteps, self.config.banks, self.config.total_steps)
        return bank[:1].expand_as(bank) if self.config.bank_from == 'first' else bank

    def _embed(self, timesteps: Tensor) -> Tensor:
        # float16 would round the last timesteps to equal values
        dtype = torch.promote_types(self.dtype, torch.float32)
        encoded = encode_timesteps(timesteps.to(dtype), self.config.base_channels)
        return self.time_embedding(encoded.to(self.dtype))

    def _run(self, block: nn.Module, *args: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            recompute: Any = self._gradient_checkpointing_func
            return recompute(block, *args)
        return block(*args)

    def _encode(self, x: Tensor, time: Tensor, bank: Tensor) -> list[Tensor]:
        """Return the outputs of the first convolution, all blocks and all downsamplings."""
        features = [tile(x, self.expansion.factor)]
        for level in self.encoder:
            features += level(features[-1], time, bank)
        return features

    def _decode(self, x: Tensor, features: list[Tensor], time: Tensor, bank: Tensor) -> Tensor:
        """Compute the features at full resolution, without copies."""
        for level in cast('Iterable[DecoderLevel]', self.decoder):
            skips = [features.pop() for _ in level.blocks]
            x = level(x, skips, time, bank)
        plain = 0 in self._plain
        return x if plain else contract(x, self.expansion.factor)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict the noise in the second half of ``sample``'s channels.

        Args:
            sample: ``[condition, noisy image]``, ``(N, in_channels, H, W)``.
            timestep: One timestep for all images, or one per image; from 0 to
                ``total_steps - 1``. It can be fractional.
            return_dict: Whether to return a ``UNet2DOutput`` instead of a tuple.
                Default True.

        Raises:
            ValueError: If ``sample`` is no tensor, has another number of channels, or a
                height or width that is not a multiple of ``size_factor``; if the numbers of
                timesteps and images differ; if a timestep is no number, or outside the
                schedule. The last check covers numbers and tensors on the CPU. Reading a
                tensor on an accelerator would stop it, so there the nearest bank is used.
        """
        self._check_sample(sample)
        timesteps = self._timesteps(timestep, sample)
        bank, time = self._banks(timesteps), self._embed(timesteps)
        features = self._encode(self.conv_in(sample), time, bank)
        x = features[-1]
        for block in self.middle:
            x = self._run(block, x, time, bank)
        x = self._decode(x, features, time, bank)
        x = self.conv_out(nn.functional.silu(self.norm_out(x)))
        return UNet2DOutput(sample=x) if return_dict else (x,)
