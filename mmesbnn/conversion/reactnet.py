"""Published ReActNet and Bi-Real Net checkpoints of both training stages.

As in ``bnext.py``, the model itself, built without memory, defines the required keys. Latent
weights are kernels ``weight``, or flat ``weights`` of shape ``(N, 1)``.

Source: the repositories of Liu et al., "ReActNet", arXiv 2003.03488
(``mobilenet/*/reactnet.py``, ``resnet/*/birealnet.py``) and "Bi-Real Net", arXiv
1808.00278 (``pytorch_implementation/BiReal18_34/birealnet.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..models.backbones.pyramid import block_settings
from ..models.backbones.reactnet import ARCHS, ReActNet
from .common import (
    Conversion,
    Family,
    check_count,
    check_fit,
    replaced_prefix,
    shape_of,
    without_memory,
)

#: Pattern of the latent weights of binary convolutions.
LATENT = re.compile(
    r'(feature\.\d+\.binary_(3x3|pw|pw_down[12])|layer\d+\.\d+\.binary_conv)\.weights?'
)

#: Our names in a :class:`ReActUnit`, and the published ones: ReActNet-A's 3x3 and 1x1 units, the
#: convolutions of the latter, and ReActNet-18's units.
SPATIAL = {
    'sign.shift.': 'move11.',
    'convs.0.': 'binary_3x3.',
    'norms.0.': 'bn1.',
    'act.0.': 'move12.',
    'act.1.': 'prelu1.',
    'act.2.': 'move13.',
}
POINTWISE = {
    'sign.shift.': 'move21.',
    'act.0.': 'move22.',
    'act.1.': 'prelu2.',
    'act.2.': 'move23.',
}
SINGLE = {'convs.0.': 'binary_pw.', 'norms.0.': 'bn2.'}
DOUBLE = {
    'convs.0.': 'binary_pw_down1.',
    'convs.1.': 'binary_pw_down2.',
    'norms.0.': 'bn2_1.',
    'norms.1.': 'bn2_2.',
}
UNIT_18 = {
    'sign.shift.': 'move0.',
    'convs.0.': 'binary_conv.',
    'norms.0.': 'bn1.',
    'act.0.': 'move1.',
    'act.1.': 'prelu.',
    'act.2.': 'move2.',
    'shortcut.conv.': 'downsample.1.',
    'shortcut.norm.': 'downsample.2.',
}


def _arch(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the channels from the blocks: two 1x1 convolutions double the width."""
    channels = [shape_of(state, 'feature.0.bn1.weight', 1)[0]]
    while f'feature.{len(channels)}.bn1.weight' in state:
        double = f'feature.{len(channels)}.bn2_1.weight' in state
        channels.append(channels[-1] * (2 if double else 1))
    check_count(state, len(channels) - 1, 'blocks', 8)  # two kernels and two norms of five
    return dict(channels=channels)


def _arch_18(state: Mapping[str, Tensor]) -> dict[str, Any]:
    channels, depths = [shape_of(state, 'bn1.weight', 1)[0]], []
    while f'layer{len(channels)}.0.bn1.weight' in state:
        stage, depth = f'layer{len(channels)}', 1
        while f'{stage}.{depth}.bn1.weight' in state:
            depth += 1
        channels.append(shape_of(state, f'{stage}.0.bn1.weight', 1)[0])
        depths.append(depth)
    check_count(state, sum(depths), 'blocks', 4)  # a kernel and a norm of five
    return dict(channels=channels, depths=depths)


def read_weights(state: Mapping[str, Tensor], is_18: bool) -> str | None:
    """Return the use of the latent weights in a file: 'binary', 'real' or None (unknown).

    In the published code only binary layers have flat weights. Binary layers of ReActNet-A
    always have them, so kernels in a file of ReActNet-A are real. Both stages of ReActNet-18
    have kernels.
    """
    latent = [key for key in state if LATENT.fullmatch(key)]
    if any(key.endswith('weights') or state[key].dim() == 2 for key in latent):
        return 'binary'
    return None if is_18 else 'real'


def _prefixes(arch: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield our prefixes and the published ones."""
    is_18 = 'depths' in arch
    stem = '' if is_18 else 'feature.0.'
    yield from {'stem.conv.': f'{stem}conv1.', 'stem.norm.': f'{stem}bn1.'}.items()
    if is_18:
        for s, depth in enumerate(arch['depths']):
            for b in range(depth):
                for own, published in UNIT_18.items():
                    yield f'stages.{s}.{b}.{own}', f'layer{s + 1}.{b}.{published}'
        return
    index = 0
    for s, stage in enumerate(block_settings(arch['channels'])):
        for b, block in enumerate(stage):
            index += 1
            pointwise = {**POINTWISE, **(DOUBLE if block['double'] else SINGLE)}
            for u, unit in enumerate((SPATIAL, pointwise)):
                for own, published in unit.items():
                    yield f'stages.{s}.{b}.{u}.{own}', f'feature.{index}.{published}'


def _names(state: Mapping[str, Tensor], model: ReActNet) -> dict[str, str]:
    """Return the published name of each of the backbone's keys."""
    prefixes, names = dict(_prefixes(model.arch)), {}
    plural = any(key.endswith('.weights') for key in state)
    for key in model.state_dict():
        name = ''.join(replaced_prefix(key, prefixes))
        names[key] = f'{name}s' if plural and LATENT.fullmatch(name) else name
    return names


def _published_shape(name: str, state: Mapping[str, Tensor], slot: Tensor) -> tuple[int, ...]:
    flat = LATENT.fullmatch(name) and name in state and state[name].dim() == 2
    return (slot.numel(), 1) if flat else tuple(slot.shape)


def _title(cfg: dict[str, Any]) -> str:
    family = 'ReActNet' if cfg['generalized'] else 'Bi-Real Net'
    if isinstance(cfg['arch'], dict):
        return f'{family} variant'
    return f'{family.removesuffix(" Net")}-{cfg["arch"]}'


def _describe(weights: str | None, binarize: bool) -> tuple[str, str | None]:
    """Describe the weights for the summary and, if needed, for the warning."""
    if weights == 'binary' or (weights is None and binarize):
        return 'binary', None
    if weights is None:
        return 'taken to be binary', (
            'a file of either training stage has these keys and shapes, and it is '
            'taken to be of the second, with binary weights; if it is of the first, '
            "set the backbone's weight_binarizer to 'real'"
        )
    if binarize:
        return 'real (first training stage), made signs', (
            'weights are real (first training stage) and made signs, so the logits are '
            'not those of the published network: train it further'
        )
    return 'real (first training stage)', (
        'weights are real (first training stage), and so are those of the converted '
        'network; binarize=True (--binarize) makes them signs, which changes the logits'
    )


def convert(state: Mapping[str, Tensor], *, binarize: bool = False) -> Conversion:
    """Convert a published ReActNet or Bi-Real Net.

    Args:
        state: Published state dict without ``module.``.
        binarize: Whether to make the weights of a file of the first stage signs, too, and
            to set sign(0) to -1, which packing and export use. If not, sign(0) is 0, as
            published. Latent weights do not change.

    Raises:
        ValueError: If keys are missing or too many, or shapes contradict.
    """
    is_18 = not any(key.startswith('feature.') for key in state)
    weights = read_weights(state, is_18)
    arch = (_arch_18 if is_18 else _arch)(state)
    cfg: dict[str, Any] = dict(
        type='ReActNet',
        arch=next((name for name, known in ARCHS.items() if known == arch), arch),
        generalized=any('.move' in key for key in state),
        weight_binarizer='real' if weights == 'real' and not binarize else 'scaled_sign',
        sign_zero=-1 if binarize else 0,
    )
    with without_memory():
        backbone = ReActNet(**{k: v for k, v in cfg.items() if k != 'type'})
    slots, names = backbone.state_dict(), _names(state, backbone)
    classes, width = shape_of(state, 'fc.bias', 1)[0], backbone.out_channels[-1]
    shapes = {names[k]: _published_shape(names[k], state, slots[k]) for k in slots}
    shapes.update({'fc.weight': (classes, width), 'fc.bias': (classes,)})
    what = _title(cfg)
    check_fit(state, shapes, what)
    new = {f'backbone.{k}': state[names[k]].reshape(slots[k].shape) for k in slots}
    new.update({f'head.{key}': state[key] for key in ('fc.weight', 'fc.bias')})
    described, warning = _describe(weights, binarize)
    model_cfg = dict(
        type='ImageClassifier',
        backbone=cfg,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=width),
    )
    summary = dict(
        network=what,
        tau='1',
        channels=', '.join(map(str, arch['channels'])),
        classes=str(classes),
        weights=described,
    )
    return Conversion(model_cfg, new, summary, warning)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Return True if ``state`` is that of a published ReActNet or Bi-Real Net."""
    return any(map(LATENT.fullmatch, state))


FAMILY = Family(
    name='ReActNet or Bi-Real Net',
    hint='keys like feature.1.binary_3x3.weights or layer1.0.binary_conv.weight',
    recognises=recognises,
    convert=convert,
)
