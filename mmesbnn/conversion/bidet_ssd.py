"""Published BiDet SSD300 checkpoints, and the layer lists that initialise them.

The background becomes the last class of an anchor, as in mmdet; in published files it is the
first. Boxes have eight channels per anchor in both.

As in ``bnext.py``, the backbone itself, built without memory, defines the required keys.

Source: the repository of Wang et al., "BiDet" (CVPR 2020), ``ssd/bidet_ssd.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.backbones.bidet_vgg import ARCHS, BiDetVGG
from .common import Conversion, Family, check_fit, replaced_prefix, shape_of, without_memory

#: Anchors per pixel of every map that the heads read.
ANCHORS = (4, 6, 6, 6, 4, 4)
VOC_CLASSES = 20
#: Prefix of the layer list in a detector; a pretrained list has none.
BASE = 'vgg.layers.'

#: Our names in a unit, and the published ones.
UNIT = {
    'convs.0.': 'conv.',
    'norms.0.': 'bn.',
    'shortcut.conv.': 'downsample.1.',
    'shortcut.norm.': 'downsample.2.',
}
#: Our names in the tail, and the positions of the published layers after the last block.
TAIL = {'conv.': 2, 'norm1.': 3, 'pointwise.': 5, 'norm2.': 6}
NORM = ('weight', 'bias', 'running_mean', 'running_var')
MEAN, STD = [123.0, 117.0, 104.0], [1.0, 1.0, 1.0]


@dataclass(frozen=True)
class Layout:
    """Layout of a network, as names and shapes of a published file show it.

    Args:
        channels: Widths of the stem, the stages and the tail.
        depths: Blocks per stage.
        extras: Widths of the extra layers; none in a pretrained layer list.
        num_classes: Classes, without background; 0 in a layer list.
    """

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    extras: tuple[int, ...] = ()
    num_classes: int = 0

    @property
    def is_detector(self) -> bool:
        """True for a detector, False for a layer list."""
        return self.num_classes > 0

    @property
    def sources(self) -> tuple[int, ...]:
        """Widths of the maps that the heads read."""
        return (self.channels[4], self.channels[-1], *self.extras[1::2])

    def title(self) -> str:
        """Return the name of the network."""
        return 'BiDet SSD300' if self.is_detector else 'BiDet VGG-16'


def _read_base(state: Mapping[str, Tensor], base: str) -> Layout:
    """Read the part of the layout that the layer list shows."""
    channels, index = [shape_of(state, f'{base}0.weight')[0]], 2
    depths: list[int] = []
    while f'{base}{index}.conv.weight' in state:
        width = shape_of(state, f'{base}{index}.conv.weight')[0]
        if not depths or f'{base}{index}.downsample.1.weight' in state:
            channels.append(width)
            depths.append(0)
        depths[-1] += 1
        index += 1
    if depths != ARCHS['16']['depths']:
        raise ValueError(f'has {depths} blocks per stage, not {ARCHS["16"]["depths"]} as in VGG-16')
    channels.append(shape_of(state, f'{base}{index + 1}.weight')[0])
    return Layout(tuple(channels), tuple(depths))


def read_layout(state: Mapping[str, Tensor]) -> Layout:
    """Read the network's layout from names and shapes.

    Args:
        state: Published state dict without ``module.``.

    Raises:
        ValueError: If required entries are missing or cannot be converted.
    """
    is_detector = any(key.startswith(BASE) for key in state)
    layout = _read_base(state, BASE if is_detector else '')
    if not is_detector:
        return layout
    extras = tuple(shape_of(state, f'extras.{i}.weight')[0] for i in range(8))
    for inner, outer in zip(extras[::2], extras[1::2]):
        if outer != 2 * inner:
            raise ValueError(f'has extra layers of {extras} channels: not twice as many')
    rows = [shape_of(state, f'conf.{i}.weight')[0] for i in range(len(ANCHORS))]
    classes = rows[0] // ANCHORS[0]
    if classes < 2 or rows != [count * classes for count in ANCHORS]:
        raise ValueError(
            f'conf.0 to conf.5 have {rows} rows, not those of {ANCHORS} anchors and '
            'two classes or more, background included'
        )
    return Layout(layout.channels, layout.depths, extras, classes - 1)


def backbone_cfg(layout: Layout, sign_zero: int) -> dict[str, Any]:
    """Return the config of the backbone."""
    arch = dict(channels=list(layout.channels), depths=list(layout.depths))
    known = next((name for name, other in ARCHS.items() if other == arch), None)
    return dict(type='BiDetVGG', arch=known or arch, sign_zero=sign_zero, init_cfg=None)


def detector_cfg(layout: Layout, sign_zero: int) -> dict[str, Any]:
    """Return the config of the detector for testing, for mmdet's ``MODELS.build``."""
    smallest = 0.2 if layout.num_classes == VOC_CLASSES else 0.15
    return dict(
        type='SingleStageDetector',
        data_preprocessor=dict(type='DetDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True),
        backbone=backbone_cfg(layout, sign_zero),
        neck=dict(
            type='BiDetSSDNeck',
            in_channels=layout.sources[:2],
            out_channels=layout.sources,
            level_strides=(2, 2, 1, 1),
            level_paddings=(1, 1, 0, 0),
            l2_norm_scale=20,
            sign_zero=sign_zero,
        ),
        bbox_head=dict(
            type='BiDetSSDHead',
            num_classes=layout.num_classes,
            in_channels=layout.sources,
            anchor_generator=dict(
                type='ClippedSSDAnchorGenerator',
                scale_major=False,
                input_size=300,
                basesize_ratio_range=(smallest, 0.9),
                strides=[8, 16, 32, 64, 100, 300],
                ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            ),
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2], clip_border=False
            ),
        ),
        train_cfg=None,
        test_cfg=dict(
            nms_pre=1_000_000,  # all: -1 would drop the last score of every map
            max_per_class=200,
            score_thr=0.01,
            min_bbox_size=0,
            nms=dict(type='nms', iou_threshold=0.45, split_thr=1),
            max_per_img=200 * layout.num_classes,
        ),
    )


def classifier_cfg(layout: Layout, sign_zero: int) -> dict[str, Any]:
    """Return the config of a classifier without a head, for mmpretrain's ``MODELS.build``."""
    return dict(
        type='ImageClassifier',
        backbone=dict(backbone_cfg(layout, sign_zero), out_indices=(-1,)),
        neck=dict(type='GlobalAveragePooling'),
    )


def _backbone_prefixes(layout: Layout) -> dict[str, str]:
    """Return our prefixes in the backbone, and those of the layer list."""
    prefixes, index = {'stem.conv.': '0.', 'stem.norm.': '1.'}, 1
    for stage, depth in enumerate(layout.depths):
        for unit in range(depth):
            index += 1
            for own, published in UNIT.items():
                prefixes[f'stages.{stage}.{unit}.{own}'] = f'{index}.{published}'
    for own, distance in TAIL.items():
        prefixes[f'stages.{len(layout.depths)}.0.{own}'] = f'{index + distance}.'
    return prefixes


def _backbone(layout: Layout) -> Iterator[tuple[str, str, torch.Size]]:
    """Yield our name, the published name and the shape, for the backbone."""
    cfg = backbone_cfg(layout, -1)
    base, prefixes = BASE if layout.is_detector else '', _backbone_prefixes(layout)
    with without_memory():
        slots = BiDetVGG(arch=cfg['arch']).state_dict()
    for key, value in slots.items():
        yield f'backbone.{key}', base + ''.join(replaced_prefix(key, prefixes)), value.shape


def _neck(layout: Layout) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield our name, the published name and the shape, for the neck."""
    yield 'neck.l2_norm.weight', 'L2Norm.weight', layout.sources[:1]
    width = layout.channels[-1]
    for i, out in enumerate(layout.extras):
        level, second = divmod(i, 2)
        own = f'neck.extra_layers.{level}.{second}'
        kernel = 3 if second else 1
        yield f'{own}.conv.weight', f'extras.{i}.weight', (out, width, kernel, kernel)
        for name in NORM:
            yield f'{own}.bn.{name}', f'extra_bns.{i}.{name}', (out,)
        name = 'num_batches_tracked'
        yield f'{own}.bn.{name}', f'extra_bns.{i}.{name}', ()
        width = out


def _head(layout: Layout) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield our name, the published name and the shape, for the head."""
    parts = {'reg_convs': ('loc', 8), 'cls_convs': ('conf', layout.num_classes + 1)}
    for own, (published, size) in parts.items():
        for i, (width, anchors) in enumerate(zip(layout.sources, ANCHORS)):
            shape = (anchors * size, width, 3, 3)
            yield f'bbox_head.{own}.{i}.0.weight', f'{published}.{i}.weight', shape
            yield f'bbox_head.{own}.{i}.0.bias', f'{published}.{i}.bias', shape[:1]


def _as_mmdet(name: str, value: Tensor, classes: int) -> Tensor:
    """Convert ``value`` to mmdet's order of classes; ``classes`` excludes the background."""
    if not name.startswith('conf.'):
        return value
    per_anchor = value.unflatten(0, (-1, classes + 1))
    return per_anchor.roll(-1, 1).flatten(0, 1)


def convert(state: Mapping[str, Tensor], *, binarize: bool = False) -> Conversion:
    """Convert a published BiDet SSD300, or the layer list that initialises it.

    Raw outputs, anchors and detections are the published ones.

    Args:
        state: Published state dict without ``module.``.
        binarize: Whether sign(0) is -1, so that layers are really binary. If not, it is 0,
            as published: the first extra layer, which reads the output of a ReLU, then
            reads {0, 1}. Weights are signs in both cases.

    Raises:
        ValueError: If keys are missing or too many, or shapes contradict.
    """
    layout = read_layout(state)
    sign_zero = -1 if binarize else 0
    slots: list[tuple[str, str, tuple[int, ...]]] = [*_backbone(layout)]
    if layout.is_detector:
        slots += [*_neck(layout), *_head(layout)]
    shapes = {name: shape for _, name, shape in slots}
    check_fit(state, shapes, layout.title())
    new = {own: _as_mmdet(name, state[name], layout.num_classes) for own, name, _ in slots}
    build = detector_cfg if layout.is_detector else classifier_cfg
    summary = dict(
        network=layout.title(), channels=', '.join(map(str, layout.channels)), weights='binary'
    )
    if layout.is_detector:
        voc = layout.num_classes == VOC_CLASSES
        summary['classes'] = str(layout.num_classes)
        summary['anchors'] = 'of VOC' if voc else 'of COCO'
    return Conversion(build(layout, sign_zero), new, summary)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Return True if ``state`` is that of a published BiDet VGG-16."""
    return any(f'{base}2.conv.weight' in state for base in (BASE, ''))


FAMILY = Family(
    name='BiDet SSD300',
    hint='keys like vgg.layers.2.conv.weight',
    recognises=recognises,
    convert=convert,
)
