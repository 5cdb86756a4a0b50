"""Published BNext, BNext-18 and ES-BNext checkpoints.

The model itself, built without memory, defines the keys of the result. Each of them is
mapped to a published key. Missing entries, unknown entries and other shapes in a published
file are therefore found.

Source: the repositories of Guo et al., "BNext", arXiv 2211.12933 (``src/bnext.py``,
``bnext_quant.py``, ``birealnet.py``) and of Shi et al., "Expanding-and-Shrinking Binary
Neural Networks", arXiv 2503.23709 (``src/bnext_rep.py``, ``bnext_rep_ops.py``,
``bnext_quant_rep_ops.py``).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..binary.weights import BINARY_BELOW
from ..models.backbones.bnext import ARCHS, BINARY_BELOW_18, BNext
from ..models.backbones.pyramid import block_settings
from ..models.layers.minmax import CONV_CLIP, LINEAR_CLIP
from .common import Conversion, Family, check_count, check_fit, shape_of, without_memory

#: Our names in a :class:`RecoupledConv`, and the published ones. The first match is used.
UNIT_NAMES = {
    'shift.': 'move.',
    'conv.weight_binarizer.': 'binary_conv.',
    'conv.': 'binary_conv.',
    'act_in.': 'activation1.',
    'act.': 'activation2.',
    'mix': 'scale',
    'se.squeeze.': 'se.se.1.',
    'projection.conv.': 'downsample.1.',
    'projection.norm.': 'downsample.2.',
}

#: Published entries without effect on the outputs: parameters that the forward pass does not
#: use, and the activations' temperatures, which do not change a sign.
UNUSED = re.compile(
    r'feature\.0\.prelu\.weight|.*\.activation1\.weight|'
    r'.*\.binary_activation\.temperature'
)
#: Such entries in quantised files, where the clips are constants (this is checked).
UNUSED_QUANTIZED = re.compile(rf'{UNUSED.pattern}|fc\.scale|.*_clip_val')

#: Bits of squeeze-excite in quantised networks of the published accuracies.
SE_BITS = 8

#: BNext-18 also clips its latent weights in evaluation.
LATENT_CLIP_18 = 1.5


@dataclass(frozen=True)
class Layout:
    """Layout of a network, as names and shapes of a published file show it.

    Args:
        arch: ``channels``, and for BNext-18 ``depths``, as in :class:`BNext`.
        tau: ES factor.
        excite: Index of the second kernel in squeeze-excite: 4 in ``rep_ops``, else 3.
        quantized: Whether stem, squeeze-excite and classifier have 8 bits.
        stem_stride: Total stride of the stem.
        num_classes: Classes of the classifier.
        in_channels: Channels of the image.
    """

    arch: dict[str, Any]
    tau: int
    excite: int
    quantized: bool
    stem_stride: int
    num_classes: int
    in_channels: int

    @property
    def is_18(self) -> bool:
        """True for BNext-18."""
        return 'depths' in self.arch

    @property
    def es_mode(self) -> str:
        """``es_mode`` of :class:`BNext`; with ``tau=1`` both modes are equal."""
        return 'shrunk' if self.excite == 4 or self.tau == 1 else 'full'

    @property
    def arch_name(self) -> str | None:
        """Name of ``arch``, None if it has none."""
        return next((name for name, arch in ARCHS.items() if arch == self.arch), None)

    @property
    def out_channels(self) -> int:
        """Channels of the classifier's input."""
        return self.arch['channels'][-1] * (self.tau if self.es_mode == 'full' else 1)

    def title(self) -> str:
        """Return the name of the network."""
        words = ['BNext-18' if self.is_18 else 'BNext', self.arch_name or 'variant']
        if self.arch_name == '18':
            words.pop()
        if self.tau > 1:
            kind = 'rep_ops' if self.es_mode == 'shrunk' else 'rep'
            words = [f'ES-{words[0]}', *words[1:], f'({kind}, tau={self.tau})']
        if self.quantized:
            words.insert(0, 'quantised')
        return ' '.join(words)


def _numbers(state: Mapping[str, Tensor], pattern: str) -> set[int]:
    """Return the numbers that the group of ``pattern`` matches."""
    return {int(match[1]) for key in state if (match := re.match(pattern, key))}


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the consecutive numbers, from 0, that the group of ``pattern`` matches.

    Numbers after a gap are not counted: one key could claim a million layers.
    """
    found = _numbers(state, pattern)
    return next(i for i in itertools.count() if i not in found)


def _arch(state: Mapping[str, Tensor], stem_width: int) -> dict[str, Any]:
    """Read the channels from the modules: a pair of FFNs doubles the width."""
    channels, double = [stem_width], _numbers(state, r'feature\.(\d+)\.FFN_')
    for i in range(1, _count(state, r'feature\.(\d+)\.')):
        channels.append(channels[-1] * (2 if i in double else 1))
    check_count(state, len(channels) - 1, 'blocks', 24)  # about 19 in each of its two units
    return dict(channels=channels)


def _arch_18(state: Mapping[str, Tensor], stem_width: int) -> dict[str, Any]:
    channels, depths = [stem_width], []
    for i in range(_count(state, r'layer(\d+)\.')):
        key = f'layer{i}.0.Attention.binary_conv.weight'
        channels.append(shape_of(state, key, 4)[0])
        depths.append(_count(state, rf'layer{i}\.(\d+)\.'))
    check_count(state, sum(depths), 'blocks', 24)  # about 19 in each of its two units
    return dict(channels=channels, depths=depths)


def _tau(state: Mapping[str, Tensor], conv: str, norm: str) -> int:
    width, wide = shape_of(state, conv, 4)[0], shape_of(state, norm, 1)[0]
    if width == 0 or wide == 0 or wide % width:
        raise ValueError(
            f'{norm} has {wide} entries and {conv} {width} kernels: their ratio, tau, '
            'must be an integer'
        )
    return wide // width


def read_layout(state: Mapping[str, Tensor]) -> Layout:
    """Read the network's layout from names and shapes.

    Args:
        state: Published state dict without ``module.``.

    Raises:
        ValueError: If required entries are missing or contradict each other.
    """
    is_18 = not any(key.startswith('feature.') for key in state)
    stem = '' if is_18 else 'feature.0.'
    width, in_channels, *kernel = shape_of(state, f'{stem}conv1.weight', 4)
    tau = _tau(state, f'{stem}conv1.weight', f'{stem}bn1.weight')
    num_classes = shape_of(state, 'fc.weight', 2)[0]
    quantized = is_quantized(state)
    if is_18 and tau > 1:
        raise ValueError(f'BNext-18 with tau={tau}: no such network was published')
    if is_18 and quantized:
        raise ValueError('the quantised BNext-18 is not supported, only T, S, M and L')
    if is_18:
        stem_stride = 4 if kernel[0] == 7 else 1
    else:
        # the published constructors have no other mark of ImageNet
        stem_stride = 2 if num_classes == 1000 else 1
    return Layout(
        arch=(_arch_18 if is_18 else _arch)(state, width),
        tau=tau,
        excite=4 if any('.se.se.4.' in key for key in state) else 3,
        quantized=quantized,
        stem_stride=stem_stride,
        num_classes=num_classes,
        in_channels=in_channels,
    )


def backbone_cfg(layout: Layout, binarize: bool, se_bits: int | None) -> dict[str, Any]:
    """Return the config of the backbone. ``sign_zero=0`` corresponds to the published sign."""
    cfg = dict(
        type='BNext',
        arch=layout.arch_name or layout.arch,
        tau=layout.tau,
        es_mode=layout.es_mode,
        stem_stride=layout.stem_stride,
        sign_zero=-1 if binarize else 0,
    )
    if layout.in_channels != 3:
        cfg['in_channels'] = layout.in_channels
    if layout.quantized:
        cfg.update(stem_bits=8, se_bits=se_bits or SE_BITS)
    return cfg


def classifier_cfg(layout: Layout, binarize: bool, se_bits: int | None) -> dict[str, Any]:
    """Return the config of the mmpretrain classifier."""
    head = 'MinMaxLinearClsHead' if layout.quantized else 'LinearClsHead'
    return dict(
        type='ImageClassifier',
        backbone=backbone_cfg(layout, binarize, se_bits),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type=head, num_classes=layout.num_classes, in_channels=layout.out_channels),
    )


def _prefixes(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield our modules' prefixes and the published ones."""
    stem = '' if layout.is_18 else 'feature.0.'
    yield from {'stem.conv.': f'{stem}conv1.', 'stem.norm.': f'{stem}bn1.'}.items()
    yield 'act.', 'prelu.'
    if layout.is_18:
        for s, depth in enumerate(layout.arch['depths']):
            for b in range(depth):
                for u, unit in enumerate(('Attention', 'FFN')):
                    yield f'stages.{s}.{b}.{u}.', f'layer{s}.{b}.{unit}.'
        return
    index = 0
    for s, stage in enumerate(block_settings(layout.arch['channels'])):
        for b, block in enumerate(stage):
            index += 1
            yield f'stages.{s}.{b}.spatial.', f'feature.{index}.Attention.'
            units = ('FFN_1', 'FFN_2') if block['double'] else ('FFN',)
            for u, unit in enumerate(units):
                yield f'stages.{s}.{b}.pointwise.{u}.', f'feature.{index}.{unit}.'


def _unit_name(name: str, excite: int) -> str:
    for own, published in {**UNIT_NAMES, 'se.excite.': f'se.se.{excite}.'}.items():
        if name.startswith(own):
            return published + name[len(own) :]
    return name


def published_names(layout: Layout, keys: Iterable[str]) -> dict[str, str]:
    """Return the published name of each of the backbone's ``keys``."""
    names, prefixes = {}, dict(_prefixes(layout))
    unit = re.compile(r'stages\.\d+\.\d+\.(spatial|pointwise\.\d+|\d+)\.')
    for key in keys:
        match = unit.match(key) or re.match(r'(stem\.)?\w+\.', key)
        assert match is not None  # all keys have a module's name
        rest = key[match.end() :]
        if key.startswith('stages.'):
            rest = _unit_name(rest, layout.excite)
        names[key] = prefixes[match[0]] + rest
    return names


def _clip_names(names: Iterable[str]) -> list[str]:
    """Return the names of the clips of quantised weights."""
    quantized = re.compile(r'feature\.0\.conv1\.weight|.*\.se\.se\.\d\.weight|fc\.weight')
    return [f'{name}_clip_val' for name in filter(quantized.fullmatch, names)]


def _check_clips(state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if name.endswith('clip_val'):
            limit = LINEAR_CLIP if name.startswith('fc.') else CONV_CLIP
            if value.tolist() != [-limit, limit]:
                raise ValueError(
                    f'{name} is {value.tolist()}, which cannot be converted: the '
                    f'published clipping range is [{-limit:g}, {limit:g}]'
                )


def _check(
    state: Mapping[str, Tensor], layout: Layout, shapes: Mapping[str, Sequence[int]]
) -> None:
    """Raise an error unless ``state`` has exactly the entries of a network of ``layout``."""
    what = layout.title()
    if layout.arch_name is None:
        what += ' with ' + ', '.join(f'{k}={v}' for k, v in layout.arch.items())
    clips = {name: (2,) for name in _clip_names(shapes)} if layout.quantized else {}
    check_fit(state, {**shapes, **clips}, what, UNUSED_QUANTIZED if clips else UNUSED)
    _check_clips(state)


def _as_evaluated(name: str, value: Tensor, layout: Layout) -> Tensor:
    """Clamp ``value`` as the published evaluation does."""
    if '.FFN' in name and name.endswith('.scale') and not layout.quantized:
        return value.clamp(0, 1)
    if layout.is_18 and name.endswith('.binary_conv.weight'):
        return value.clamp(-LATENT_CLIP_18, LATENT_CLIP_18)
    return value


def _describe_weights(temperatures: Tensor, below: float) -> tuple[str, bool]:
    """Describe the weights at these temperatures; also return True if they are signs."""
    low, high = temperatures.min().item(), temperatures.max().item()
    span = f'T = {low:.3g}' if low == high else f'T = {low:.3g} to {high:.3g}'
    if (temperatures < below).all():
        return f'binary ({span})', True
    if low == high == 1:
        return 'never binarized (all temperatures are 1, as before training)', False
    return f'not binary yet ({span}; signs need T < {below:g})', False


def _warning(weights: str, binarize: bool) -> str:
    if binarize:
        return (
            f'weights {weights} are made signs, so the logits are not those of the '
            'published network: measure its accuracy again, or train it further'
        )
    return (
        f'weights {weights}: the published network computes with the real weights '
        'clamp(w / T, -1, 1), and so does the converted one; binarize=True '
        '(--binarize) makes them signs, which changes the logits'
    )


def _slots(layout: Layout, cfg: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the published name of every key of the model, and the required shapes."""
    options = {k: v for k, v in cfg['backbone'].items() if k != 'type'}
    with without_memory():
        slots = BNext(**options).state_dict()
    names = published_names(layout, slots)
    shapes = {names[key]: slot.shape for key, slot in slots.items()}
    shapes['fc.weight'] = (layout.num_classes, layout.out_channels)
    shapes['fc.bias'] = (layout.num_classes,)
    own = {f'backbone.{key}': name for key, name in names.items()}
    return {**own, 'head.fc.weight': 'fc.weight', 'head.fc.bias': 'fc.bias'}, shapes


def convert(
    state: Mapping[str, Tensor], *, binarize: bool = False, se_bits: int | None = None
) -> Conversion:
    """Convert a published BNext, BNext-18 or ES-BNext.

    The published evaluation clamps some values in every forward pass (``scale`` in FFNs, the
    weights of BNext-18). Here they are clamped once. To binarize, the temperatures are set
    to 0, below every threshold. The latent weights do not change; the layers compute their
    signs.

    Args:
        state: Published state dict without ``module.``.
        binarize: Whether to make the weights exact signs, with sign(0) = -1.
        se_bits: Bits of squeeze-excite of a quantised file. Default None: 8.

    Raises:
        ValueError: If keys are missing or too many, or shapes contradict.
    """
    layout = read_layout(state)
    cfg = classifier_cfg(layout, binarize, se_bits)
    names, shapes = _slots(layout, cfg)
    _check(state, layout, shapes)
    new = {key: _as_evaluated(name, state[name], layout) for key, name in names.items()}
    temperatures = [key for key in new if key.endswith('.temperature')]
    weights, binary = _describe_weights(
        torch.cat([new[key] for key in temperatures]),
        BINARY_BELOW_18 if layout.is_18 else BINARY_BELOW,
    )
    if binarize:
        new.update({key: torch.zeros_like(new[key]) for key in temperatures})
    summary = dict(
        network=layout.title(),
        tau=str(layout.tau),
        channels=', '.join(map(str, layout.arch['channels'])),
        classes=str(layout.num_classes),
        weights=weights + (', made signs' if binarize and not binary else ''),
    )
    if layout.quantized:
        source = 'by default' if se_bits is None else 'by argument'
        gates = cfg['backbone']['se_bits']
        summary['bits'] = f'stem and classifier 8, squeeze-excite {gates} {source}'
    return Conversion(cfg, new, summary, None if binary else _warning(weights, binarize))


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Return True if ``state`` is that of a published BNext of any kind."""
    pattern = re.compile(r'(feature\.\d+|layer\d+\.\d+)\.(Attention|FFN)')
    return any(map(pattern.match, state))


def is_quantized(state: Mapping[str, Tensor]) -> bool:
    """Return True if stem, squeeze-excite and classifier of ``state`` have 8 bits."""
    return any(f'{stem}conv1.weight_clip_val' in state for stem in ('', 'feature.0.'))


FAMILY = Family(
    name='BNext or ES-BNext',
    hint='keys like feature.1.Attention.binary_conv.weight '
    'or layer0.0.Attention.binary_conv.weight',
    recognises=recognises,
    convert=convert,
    is_quantized=is_quantized,
)
