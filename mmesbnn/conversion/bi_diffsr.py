"""Published BI-DiffSR checkpoints.

As in ``bnext.py``, the model itself, built without memory, defines the required keys. In
published files, shifts and activations have one module per bank. In our model they are rows
of one tensor. Files do not hold these values of the published configs: 16 groups of the
norms (or the largest number of them that divides the width), a dropout of 0.2, 2000
timesteps. The magnification is set to 2, because files of all magnifications look the same.
To use other numbers, change the resulting config; the state dict does not change.

Source: the repository of Chen et al., "Binarized Diffusion Model for Image
Super-Resolution", arXiv 2406.05723 (``diffglv/archs/unet_BI_DiffSR_arch.py``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..diffusion import build_bi_diffsr_unet
from .common import (
    Conversion,
    Family,
    check_count,
    check_fit,
    replaced_prefix,
    shape_of,
    without_memory,
)

#: Groups of the norms in the published configs.
NORM_GROUPS = 16

#: Magnification in the resulting config.
SCALE = 2

#: Our names in a :class:`BIConv`, and the published ones, which may depend on the bank.
BI_CONV = {
    'shift.bias': 'TaR.dynamic_move_{bank}.bias',
    'conv.weight': 'binary_conv.weight',
    'act.shift_in': 'TaA.dynamic_relu_{bank}.pr_bias0.bias',
    'act.slope': 'TaA.dynamic_relu_{bank}.pr_prelu.weight',
    'act.shift_out': 'TaA.dynamic_relu_{bank}.pr_bias1.bias',
}
#: Our names of the parts of a residual block, and the published ones.
BLOCK = {
    'norm1.': 'res_block.block1.block.0.',
    'conv1.': 'res_block.block1.conv.',
    'time.': 'res_block.timestep_func.1.',
    'norm2.': 'res_block.block2.block.0.',
    'conv2.': 'res_block.block2.conv.',
    'attention.': 'attn.',
}
FUSION = {'conv1.': 'biconv_1.', 'conv2.': 'biconv_2.'}
RESAMPLE = {'conv1.': 'biconv1.', 'conv2.': 'biconv2.'}
#: Our names of single parts, and the published ones.
SINGLE = {
    'time_embedding.0.': 'timestep_level_mlp.1.',
    'time_embedding.2.': 'timestep_level_mlp.3.',
    'conv_in.': 'downs.0.',
    'norm_out.': 'final_conv.block.0.',
    'conv_out.': 'final_conv.block.3.',
}


def _layers(state: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the encoder's layers and of their parts."""
    parts = [key.split('.', 3) for key in state if key.startswith('downs.')]
    return {'.'.join(part[:n]) for part in parts for n in (2, 3) if len(part) > n}


def _sizes(layers: set[str]) -> tuple[int, int]:
    """Return the number of levels, and of blocks per level in the encoder."""
    count = 0
    while f'downs.{count}' in layers:
        count += 1
    downs = [i for i in range(count) if f'downs.{i}.biconv1' in layers]
    levels = len(downs) + 1
    # one convolution, one downsampling between two levels, and blocks
    blocks, rest = divmod(count - levels, levels)
    if not blocks or rest:
        raise ValueError(
            f'has {count} layers in downs, {len(downs)} of which downsample; a BI-'
            'DiffSR has as many blocks in every level'
        )
    return levels, blocks


def _banks(state: Mapping[str, Tensor]) -> int:
    count = 0
    while f'mid.0.res_block.block1.conv.TaR.dynamic_move_{count}.bias' in state:
        count += 1
    return max(count, 1)


def _entries(banks: int) -> int:
    """Return the number of entries of a binary residual block without attention."""
    per_conv = sum(banks if '{bank}' in name else 1 for name in BI_CONV.values())
    # two convolutions; the norms and the projection of the time have a weight and a bias
    return 2 * per_conv + 2 * (len(BLOCK) - 3)


def unet_cfg(state: Mapping[str, Tensor], binarize: bool) -> dict[str, Any]:
    """Return the config of the UNet. ``sign_zero=0`` corresponds to the published sign.

    Raises:
        ValueError: If required entries are missing or contradict each other.
    """
    layers, banks = _layers(state), _banks(state)
    levels, blocks = _sizes(layers)
    check_count(state, levels * blocks, f'blocks with {banks} banks', _entries(banks))
    base, channels = shape_of(state, 'downs.0.weight', 4)[:2]
    predicted = shape_of(state, 'final_conv.block.3.weight', 4)[0]
    if (channels, predicted) != (6, 3):
        raise ValueError(
            f'reads {channels} channels and predicts {predicted}, not 6 (condition and '
            'noisy image) and 3'
        )
    down, up = blocks + 1, 2 * blocks + 3  # layers per level
    return dict(
        type='BIDiffSRUNet',
        in_channels=channels,
        out_channels=predicted,
        base_channels=base,
        norm_groups=math.gcd(base, NORM_GROUPS),
        num_levels=levels,
        blocks_per_level=blocks,
        attn_levels=[i for i in range(levels) if f'downs.{1 + i * down}.attn' in layers],
        fp_levels=[
            i for i in range(levels) if f'ups.{(levels - 1 - i) * up}.biconv_1.weight' in state
        ],
        banks=banks,
        sign_zero=-1 if binarize else 0,
    )


def _prefixes(cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Our prefixes and the published ones."""
    yield from SINGLE.items()

    def inside(names: dict[str, str], own: str, published: str) -> Iterator[tuple[str, str]]:
        return ((own + key, published + name) for key, name in names.items())

    levels, blocks = cfg['num_levels'], cfg['blocks_per_level']
    index = 1
    for level in range(levels):
        for block in range(blocks):
            yield from inside(BLOCK, f'encoder.{level}.blocks.{block}.', f'downs.{index}.')
            index += 1
        yield from inside(RESAMPLE, f'encoder.{level}.resample.', f'downs.{index}.')
        index += 1
    for i in range(2):
        yield from inside(BLOCK, f'middle.{i}.', f'mid.{i}.')
    index = 0
    for level in range(levels):
        own = f'decoder.{level}.'
        for block in range(blocks + 1):
            yield from inside(FUSION, f'{own}fusions.{block}.', f'ups.{index}.')
            yield from inside(BLOCK, f'{own}blocks.{block}.', f'ups.{index + 1}.')
            index += 2
        yield from inside(RESAMPLE, f'{own}resample.', f'ups.{index}.')
        index += 1


def published_names(key: str, prefixes: Mapping[str, str], banks: int) -> list[str]:
    """Return the published names of the UNet's ``key``: one, or one per bank."""
    published, rest = replaced_prefix(key, prefixes)
    name = published + BI_CONV.get(rest, rest)
    if '{bank}' not in name:
        return [name]
    return [name.format(bank=bank) for bank in range(banks)]


def _published_shape(name: str, slot: Tensor) -> tuple[int, ...]:
    if not re.search(r'\.Ta[AR]\.', name):
        return tuple(slot.shape)
    width = slot.shape[1]
    return (width,) if name.endswith('pr_prelu.weight') else (1, width, 1, 1)


def convert(state: Mapping[str, Tensor], *, binarize: bool = False) -> Conversion:
    """Convert a published BI-DiffSR.

    Args:
        state: Published state dict.
        binarize: Whether sign(0) becomes -1, which packing and export use. If not, it is
            0, as published. Weights are signs in both cases.

    Raises:
        ImportError: If diffusers is not installed.
        ValueError: If keys are missing or too many, or shapes contradict.
    """
    cfg = unet_cfg(state, binarize)
    with without_memory():
        unet = build_bi_diffsr_unet(**{k: v for k, v in cfg.items() if k != 'type'})
    slots, prefixes = unet.state_dict(), dict(_prefixes(cfg))
    names = {key: published_names(key, prefixes, cfg['banks']) for key in slots}
    shapes = {
        name: _published_shape(name, slots[key]) for key, parts in names.items() for name in parts
    }
    check_fit(state, shapes, 'BI-DiffSR')
    new = {}
    for key, parts in names.items():
        value = torch.cat([state[name] for name in parts])
        new[f'unet.{key}'] = value.reshape(slots[key].shape)
    summary = dict(
        network='BI-DiffSR',
        tau='1',
        channels=', '.join(str(cfg['base_channels'] * 2**i) for i in range(cfg['num_levels'])),
        banks=str(cfg['banks']),
        weights='binary',
        scale=f'not in the file; {SCALE} in the config',
    )
    model_cfg = dict(
        type='SRDiffusion',
        scale=SCALE,
        unet=cfg,
        timesteps='batch',
        pipeline=dict(x0_clip='scheduler'),
    )
    return Conversion(model_cfg, new, summary)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Return True if ``state`` is that of a published BI-DiffSR."""
    return 'timestep_level_mlp.1.weight' in state and 'downs.0.weight' in state


FAMILY = Family(
    name='BI-DiffSR',
    hint='keys like timestep_level_mlp.1.weight',
    recognises=recognises,
    convert=convert,
)
