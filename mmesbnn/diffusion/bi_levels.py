"""Levels of BI-DiffSR: blocks of one resolution, in the encoder and in the decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..binary import tile
from ..binary.arguments import checked_layer
from .bi_layers import contract, expansion_factor, make_conv, shuffle


class CSFusion(nn.Module):
    """Channel-shuffle fusion: ``conv_1([x odd, s even]) + conv_2([x even, s odd])``.

    Args:
        channels: ``C`` of either input, before expansion; even.
        binary: Arguments of :class:`BIConv`. With None convolutions are full precision.

    Shape:
        Two maps ``(N, C tau g, H, W)`` and ``(N,)`` to ``(N, C tau g, H, W)``.
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
    """Base of modules that recompute their blocks if gradient checkpointing is on.

    diffusers' ``enable_gradient_checkpointing`` sets ``gradient_checkpointing`` and
    ``_gradient_checkpointing_func`` of every module that has the first attribute.
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
    """Level of the encoder: blocks, then the downsampling to the next level.

    Args:
        blocks: :class:`ResBlock` modules.
        resample: Downsampling; None in the last level.

    Shape:
        ``(N, C, H, W)``, ``(N, time_channels)`` and ``(N,)`` to a list of maps.
    """

    def __init__(self, blocks: Sequence[nn.Module], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample

    def forward(self, x: Tensor, time: Tensor, bank: Tensor) -> list[Tensor]:
        """Compute the outputs of all blocks and of the downsampling for ``x``."""
        outputs = []
        for block in self.blocks:
            x = self.run(block, x, time, bank)
            outputs.append(x)
        if self.resample is not None:
            outputs.append(self.run(self.resample, x, bank))
        return outputs


class DecoderLevel(Checkpointing):
    """Level of the decoder: fusions and blocks, then the upsampling to the next level.

    Args:
        blocks: :class:`ResBlock` modules.
        fusions: :class:`CSFusion` modules, one before each block.
        resample: Upsampling; None in the last level.
        factor: Number of copies in the features around a level that is not expanded
            itself. They are averaged before the level and tiled after it. It is 1 if the
            level is expanded.

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
