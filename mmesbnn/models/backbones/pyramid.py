"""Layouts that BNext and ReActNet share: widths, blocks, stages and the stem.

An arch is a dict. If it has ``channels`` only, it is the layout of MobileNet: ``channels``
is the width of the stem, then the width of every block. If it also has ``depths``, the
number of blocks per stage, it is the layout of ResNet-18: ``channels`` is the width of the
stem, then the width of every stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from ..layers.float_layers import Stem
from .base import BackboneOptions, are_widths, check_arch_keys, named_arch

#: BNext-tiny and ReActNet-A.
MOBILE: dict[str, Any] = dict(channels=[32, 64, *[128] * 2, *[256] * 2, *[512] * 6, *[1024] * 2])


def resolve_arch(arch: Any, archs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Check ``arch`` and return it as a dict with ``channels`` (and ``depths``).

    Args:
        arch: Name or dict.
        archs: Known archs by name.

    Raises:
        ValueError: If it is neither a known name nor a valid dict.
    """
    arch = named_arch(arch, archs)
    if not isinstance(arch, dict) or 'channels' not in arch:
        raise ValueError(f'arch={arch!r} must be a name or a dict with `channels`')
    check_arch_keys(arch)
    channels, depths = arch['channels'], arch.get('depths')
    if not are_widths(channels) or len(channels) < 2:
        raise ValueError(f'arch: channels={channels} must be two or more widths')
    if depths is None:
        for width, following in pairwise(channels):
            if following not in (width, 2 * width):
                raise ValueError(
                    f'arch: channels={channels}: a block keeps or doubles its width, '
                    f'{width} -> {following} does neither'
                )
        return dict(channels=list(channels))
    if not are_widths(depths) or len(depths) != len(channels) - 1:
        raise ValueError(
            f'arch: depths={depths} must be one positive number per stage of channels={channels}'
        )
    return dict(channels=list(channels), depths=list(depths))


def block_settings(channels: Sequence[int]) -> list[list[dict[str, Any]]]:
    """List the blocks of a network with these ``channels``, stage by stage.

    A block that changes the width halves the resolution and starts a new stage. The first
    block is an exception: it always keeps the resolution. In BNext, even-numbered blocks
    multiply with their residual.
    """
    stages: list[list[dict[str, Any]]] = [[]]
    for i, (width, out) in enumerate(pairwise(channels), start=1):
        stride = 2 if i > 1 and out != width else 1
        if stride == 2:
            stages.append([])
        stages[-1].append(
            dict(channels=width, stride=stride, elementwise=i % 2 == 0, double=out != width)
        )
    return stages


def unit_settings(arch: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """List the units of an arch with ``depths``, stage by stage.

    The first unit of a stage changes the width. It also halves the resolution, except in
    the first stage.
    """
    stages = []
    for i, (width, out) in enumerate(pairwise(arch['channels'])):
        first = dict(channels=width, out_channels=out, stride=2 if i else 1)
        other = dict(channels=out, out_channels=out, stride=1)
        stages.append([first, *[other] * (arch['depths'][i] - 1)])
    return stages


def stage_widths(arch: dict[str, Any]) -> list[int]:
    """Return the width of every stage's output, before expansion."""
    channels = arch['channels']
    if 'depths' in arch:
        return list(channels[1:])
    return [channels[end] for end in accumulate(map(len, block_settings(channels)))]


def make_stem(
    arch: dict[str, Any],
    *,
    in_channels: int,
    stride: int | None,
    options: BackboneOptions,
    bits: int | None = None,
) -> Stem:
    """Build the stem of an arch.

    Args:
        arch: Arch, as :func:`resolve_arch` returns it.
        in_channels: Channels of the image.
        stride: Total stride. It is 2 or 1. For an arch with ``depths`` it is 4 (7x7
            convolution and max-pool) or 1. None is the larger one.
        options: ES parameters and norm.
        bits: Bits of the kernel. Default None: full precision.

    Raises:
        ValueError: If the arch has no stem of this stride.
    """
    allowed = (4, 1) if 'depths' in arch else (2, 1)
    stride = allowed[0] if stride is None else stride
    if stride not in allowed:
        raise ValueError(f'stem_stride={stride} must be one of {allowed}')
    large = stride == 4
    return Stem(
        in_channels,
        arch['channels'][0],
        kernel_size=7 if large else 3,
        stride=min(stride, 2),
        max_pool=large,
        expansion=options.expansion,
        norm=options.norm,
        bits=bits,
    )
