"""Published checkpoints of BinaryViT and of its plain binary DeiT-S.

As in ``bnext.py``, the model itself, built without memory, defines the required keys. Two
numbers come from the published configs, because files do not hold them: heads are 64
channels wide, and attention with a spatial reduction reduces to the resolution of the last
stage.

Source: the repository of Le and Li, "BinaryViT", arXiv 2306.16678
(``transformer/modeling_vit_extra_res_pyramid.py``, ``modeling_vit_extra_res.py``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..models.backbones.binary_vit import BinaryViT
from ..models.backbones.vit_archs import ARCHS, resolve_arch
from .common import (
    Conversion,
    Family,
    check_count,
    check_fit,
    replaced_prefix,
    shape_of,
    without_memory,
)

#: Channels of a head in all published configs.
HEAD_WIDTH = 64

LAYER = 'vit.encoder.layer'
STEM = 'vit.embeddings'


def _stage_of_layers(state: Mapping[str, Tensor], dims: list[int]) -> list[int]:
    """Return the stage of every layer, by its width."""
    if len(set(dims)) < len(dims):
        raise ValueError(f'stages of equal width, {dims}, cannot be distinguished')
    stages: list[int] = []
    while f'{LAYER}.{len(stages)}.attention.attention.query.weight' in state:
        key = f'{LAYER}.{len(stages)}.attention.attention.query.weight'
        width = shape_of(state, key, 2)[0]
        if width not in dims:
            raise ValueError(f'{key} has {width} rows; the stages have {dims}')
        stages.append(dims.index(width))
    if stages != sorted(stages) or set(stages) != set(range(len(dims))):
        raise ValueError(f'its layers are in stages {stages}, not in all in order')
    return stages


def read_arch(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read ``arch`` of :class:`BinaryViT` from names and shapes.

    Args:
        state: Published state dict without ``module.``.

    Raises:
        ValueError: If required entries are missing or contradict each other.
    """
    conv = shape_of(state, f'{STEM}.patch_embeddings.projection.weight', 4)
    dims = [conv[0]]
    while f'vit.encoder.patch_embed{len(dims)}.proj.weight' in state:
        key = f'vit.encoder.patch_embed{len(dims)}.proj.weight'
        dims.append(shape_of(state, key, 4)[0])
    stages = _stage_of_layers(state, dims)
    firsts = [f'{LAYER}.{stages.index(i)}' for i in range(len(dims))]
    last = len(dims) - 1
    return resolve_arch(
        dict(
            dims=dims,
            depths=[stages.count(i) for i in range(len(dims))],
            heads=[max(width // HEAD_WIDTH, 1) for width in dims],
            ffn_dims=[
                shape_of(state, f'{first}.intermediate.dense.weight', 2)[0] for first in firsts
            ],
            sr_ratios=[
                2 ** (last - i) if f'{first}.attention.attention.reduction.weight' in state else 1
                for i, first in enumerate(firsts)
            ],
            patch_size=conv[2],
            stem_norm=f'{STEM}.norm.weight' in state,
        )
    )


def backbone_cfg(state: Mapping[str, Tensor], binarize: bool) -> dict[str, Any]:
    """Return the config of the backbone. ``sign_zero=0`` corresponds to the published sign."""
    if f'{STEM}.cls_token' in state:
        raise ValueError('has a class token; networks with mean pooling are supported')
    arch = read_arch(state)
    tokens = shape_of(state, f'{STEM}.position_embeddings', 3)[1]
    if math.isqrt(tokens) ** 2 != tokens:
        raise ValueError(f'has {tokens} position embeddings, which is not a square')
    matches = (re.fullmatch(rf'{LAYER}\.0\.layerscale_h(\d+)\.alpha', k) for k in state)
    pool_sizes = sorted(int(match[1]) for match in matches if match)
    # reductions and scales are not in all layers
    least = sum(1 for _ in _layer_prefixes(pool_sizes)) // 3
    check_count(state, sum(arch['depths']), 'layers', least)
    name = next((name for name, known in ARCHS.items() if known == arch), None)
    return dict(
        type='BinaryViT',
        arch=name or arch,
        img_size=math.isqrt(tokens) * arch['patch_size'],
        some_fp=len(arch['dims']) > 1 and 'vit.encoder.patch_embed1.rprelu.move1' not in state,
        layer_scale=f'{LAYER}.0.output.layerscale.alpha' in state,
        pool_sizes=pool_sizes,
        in_channels=state[f'{STEM}.patch_embeddings.projection.weight'].shape[1],
        sign_zero=-1 if binarize else 0,
    )


def _layer_prefixes(pool_sizes: list[int]) -> Iterator[tuple[str, str]]:
    """Yield our prefixes inside a block and the published ones inside a layer."""
    inner = 'attention.attention.'
    units = dict(query='q', key='k', value='v', reduction='r')
    for name, letter in units.items():
        yield f'attention.{name}.shift.bias', f'{inner}move{letter}'
        yield f'attention.{name}.linear.', f'{inner}{name}.'
        norm = 'norm_r' if letter == 'r' else f'norm{letter}'
        yield f'attention.{name}.norm.', f'{inner}{norm}.'
        yield f'attention.{name}.act.', f'{inner}rprelu{letter}.'
        yield f'attention.{name}_sign.shift.bias', f'{inner}move{letter}2'
    yield 'attention.clip', f'{inner}att_prob_clip'
    yield 'attention.norm.', f'{inner}norm_context.'
    yield 'attention.act.', f'{inner}rprelu_context.'
    denses = {'attention.output.': 'attention.output.'}
    denses.update({'ffn.up.': 'intermediate.', 'ffn.down.': 'output.'})
    for own, published in denses.items():
        yield f'{own}shift.bias', f'{published}move'
        yield f'{own}linear.', f'{published}dense.'
        yield f'{own}norm.', f'{published}norm.'
        yield f'{own}act.', f'{published}rprelu.'
    yield 'norm1.', 'layernorm_before.'
    yield 'norm2.', 'layernorm_after.'
    yield 'scale1.', 'attention.output.layerscale.'
    yield 'scale2.', 'output.layerscale.'
    letters = [f'{letter}{k}' for k in pool_sizes for letter in 'hw']
    for i, letter in enumerate(letters):
        yield f'branches.scales.{i}.', f'layerscale_{letter}.'


def _prefixes(arch: dict[str, Any], pool_sizes: list[int]) -> dict[str, str]:
    """Return our prefixes and the published ones."""
    names = {
        'stem.conv.': f'{STEM}.patch_embeddings.projection.',
        'stem.norm.': f'{STEM}.norm.',
        'stem.positions.bias': f'{STEM}.position_embeddings',
        'norm.': 'vit.layernorm.',
    }
    merging = {
        'norm_in.': 'norm0.',
        'shift.bias': 'move',
        'conv.': 'proj.',
        'norm.': 'norm.',
        'act.': 'rprelu.',
        'positions.bias': 'position_embeddings',
    }
    layer = 0
    for stage, depth in enumerate(arch['depths']):
        for own, published in merging.items() if stage else ():
            names[f'stages.{stage}.0.{own}'] = f'vit.encoder.patch_embed{stage}.{published}'
        for block in range(depth):
            prefix = f'stages.{stage}.{block + bool(stage)}.'
            for own, published in _layer_prefixes(pool_sizes):
                names[prefix + own] = f'{LAYER}.{layer}.{published}'
            layer += 1
    return names


#: Our names at the end of a key, after the prefix, and the published ones.
RPRELU = {'shift_in.bias': 'move1', 'slope': 'prelu.weight', 'shift_out.bias': 'move2'}
SCALE = {'scale': 'alpha', 'shift': 'move'}


def published_name(key: str, prefixes: Mapping[str, str]) -> str:
    """Return the published name of the backbone's ``key``."""
    published, rest = replaced_prefix(key, prefixes)
    table = SCALE if 'layerscale' in published else RPRELU if 'rprelu' in published else {}
    return published + table.get(rest, rest)


def _published_shape(name: str, slot: Tensor) -> tuple[int, ...]:
    if name.endswith('position_embeddings'):
        return (1, slot.shape[2:].numel(), slot.shape[1])
    if '.rprelu.' in name:  # ours are (1, C, 1, 1) between the stages
        return (slot.numel(),)
    return tuple(slot.shape)


def _as_ours(name: str, value: Tensor, slot: Tensor) -> Tensor:
    """Convert ``value`` to the layout and the sign of our layer."""
    if name.endswith('position_embeddings'):
        value = value.transpose(1, 2)
    if name.endswith('.move1'):  # published: prelu(x - move1)
        value = -value
    return value.reshape(slot.shape)


def _title(cfg: dict[str, Any], arch: dict[str, Any]) -> str:
    pyramid = len(arch['dims']) > 1
    words = ['BinaryViT' if pyramid else 'plain binary DeiT']
    if isinstance(cfg['arch'], dict):
        words.append('variant')
    if cfg['some_fp']:
        words.append('(some-fp)')
    return ' '.join(words)


def convert(state: Mapping[str, Tensor], *, binarize: bool = False) -> Conversion:
    """Convert a published BinaryViT or plain binary DeiT.

    Args:
        state: Published state dict without ``module.``.
        binarize: Whether sign(0) becomes -1, which packing and export use. If not, it is
            0, as published. Weights are signs in both cases.

    Raises:
        ValueError: If keys are missing or too many, or shapes contradict.
    """
    cfg = backbone_cfg(state, binarize)
    with without_memory():
        backbone = BinaryViT(**{k: v for k, v in cfg.items() if k != 'type'})
    slots, arch = backbone.state_dict(), backbone.arch
    prefixes = _prefixes(arch, cfg['pool_sizes'])
    names = {key: published_name(key, prefixes) for key in slots}
    shapes = {names[k]: _published_shape(names[k], slots[k]) for k in slots}
    classes = shape_of(state, 'classifier.weight', 2)[0]
    shapes['classifier.weight'] = (classes, arch['dims'][-1])
    shapes['classifier.bias'] = (classes,)
    what = _title(cfg, arch)
    check_fit(state, shapes, what)
    new = {
        f'backbone.{key}': _as_ours(name, state[name], slots[key]) for key, name in names.items()
    }
    for name in ('weight', 'bias'):
        new[f'head.fc.{name}'] = state[f'classifier.{name}']
    model_cfg = dict(
        type='ImageClassifier',
        backbone=cfg,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=arch['dims'][-1]),
    )
    summary = dict(
        network=what,
        tau='1',
        channels=', '.join(map(str, arch['dims'])),
        classes=str(classes),
        weights='binary',
    )
    return Conversion(model_cfg, new, summary)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Return True if ``state`` is that of a published binary Transformer."""
    return f'{LAYER}.0.attention.attention.att_prob_clip' in state


FAMILY = Family(
    name='BinaryViT',
    hint=f'keys like {LAYER}.0.attention.attention.att_prob_clip',
    recognises=recognises,
    convert=convert,
)
