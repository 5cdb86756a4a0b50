"""Published BiDet Faster R-CNN checkpoints, and the classifiers that initialise them.

Differences from mmdet are converted. The background becomes the last class; in published
files it is the first. An anchor gets one score, foreground minus background, for a sigmoid
that equals the published softmax. Anchors are the rounded ones of the original Faster R-CNN.

As in ``bnext.py``, the model itself, built without memory, defines the required keys.

Source: the repository of Wang et al., "BiDet" (CVPR 2020), ``faster_rcnn/lib/model``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.backbones.bidet_resnet import BiDetResNet, BiDetResStage
from .common import (
    Conversion,
    Family,
    check_count,
    check_fit,
    replaced_prefix,
    shape_of,
    without_memory,
)

#: Scales of the anchors by the number of anchors: VOC's and COCO's. There are three ratios.
SCALES = {9: [8, 16, 32], 12: [4, 8, 16, 32]}
RATIOS = [0.5, 1.0, 2.0]
STRIDE = 16

#: Our names in a unit, and the published ones.
UNIT = {
    'convs.0.': 'conv.',
    'norms.0.': 'bn.',
    'shortcut.conv.': 'res_func.1.',
    'shortcut.norm.': 'res_func.2.',
}
STD, MEAN = [58.395, 57.12, 57.375], [123.675, 116.28, 103.53]


@dataclass(frozen=True)
class Layout:
    """Layout of a network, as names and shapes of a published file show it.

    Args:
        widths: Channels of the stem and the stages.
        depths: Convolutions per stage.
        num_classes: Classes, without background.
        anchors: Anchors per pixel; 0 in a classifier.
        rpn_channels: Channels of the proposal network; 0 in a classifier.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_classes: int
    anchors: int = 0
    rpn_channels: int = 0

    @property
    def is_detector(self) -> bool:
        """True for a detector, False for a classifier."""
        return self.anchors > 0

    def title(self) -> str:
        """Return the name of the network."""
        kind = 'Faster R-CNN' if self.is_detector else 'classifier'
        depth = sum(self.depths) + 2
        return f'BiDet ResNet-{depth} {kind}'


def _stages(is_detector: bool) -> list[str]:
    """Return the published names of the four stages."""
    if is_detector:
        return ['RCNN_base.3', 'RCNN_base.4', 'RCNN_base.5', 'RCNN_top.0']
    return [f'layer{i}' for i in range(1, 5)]


def read_layout(state: Mapping[str, Tensor]) -> Layout:
    """Read the network's layout from names and shapes.

    Args:
        state: Published state dict without ``module.``.

    Raises:
        ValueError: If required entries are missing or cannot be converted.
    """
    is_detector = 'RCNN_cls_score.weight' in state
    stages = _stages(is_detector)
    stem = 'RCNN_base.0.weight' if is_detector else 'conv1.weight'
    widths, depths = [shape_of(state, stem)[0]], []
    for stage in stages:
        widths.append(shape_of(state, f'{stage}.0.conv1.conv.weight')[0])
        pattern = re.compile(rf'{re.escape(stage)}\.(\d+)\.conv[12]\.conv\.weight')
        depths.append(sum(pattern.fullmatch(key) is not None for key in state))
    check_count(state, sum(depths), 'convolutions', 4)  # a kernel and a norm of five
    common = tuple(widths), tuple(depths)
    if not is_detector:
        return Layout(*common, shape_of(state, 'fc.weight')[0])
    boxes = shape_of(state, 'RCNN_bbox_pred.weight')[0]
    if boxes != 8:
        raise ValueError(
            f'RCNN_bbox_pred.weight has {boxes} rows: boxes per class, which the '
            'published code itself misreads; only class-agnostic boxes, 8 rows, are '
            'supported'
        )
    scores = shape_of(state, 'RCNN_rpn.RPN_cls_score.weight')[0]
    if scores not in {2 * count for count in SCALES}:
        raise ValueError(
            f'RCNN_rpn.RPN_cls_score.weight has {scores} rows, not two for each of '
            f'{" or ".join(map(str, SCALES))} anchors'
        )
    return Layout(
        *common,
        shape_of(state, 'RCNN_cls_score.weight')[0] - 1,
        scores // 2,
        shape_of(state, 'RCNN_rpn.RPN_Conv.0.weight')[0],
    )


def backbone_cfg(layout: Layout, sign_zero: int) -> dict[str, Any]:
    """Return the config of the backbone: three stages in a detector, four in a classifier."""
    stages = 3 if layout.is_detector else 4
    return dict(
        type='BiDetResNet',
        widths=layout.widths[: stages + 1],
        depths=layout.depths[:stages],
        sign_zero=sign_zero,
    )


def stage_cfg(layout: Layout, sign_zero: int) -> dict[str, Any]:
    """Return the config of the stage after pooling."""
    return dict(
        type='BiDetResStage',
        in_channels=layout.widths[3],
        out_channels=layout.widths[4],
        depth=layout.depths[3],
        sign_zero=sign_zero,
    )


def detector_cfg(layout: Layout, sign_zero: int) -> dict[str, Any]:
    """Return the config of the detector for testing, for mmdet's ``MODELS.build``."""
    return dict(
        type='FasterRCNN',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=1
        ),
        backbone=backbone_cfg(layout, sign_zero),
        rpn_head=dict(
            type='BiDetRPNHead',
            in_channels=layout.widths[3],
            feat_channels=layout.rpn_channels,
            sign_zero=sign_zero,
            anchor_generator=dict(
                type='RoundedAnchorGenerator',
                strides=[STRIDE],
                ratios=RATIOS,
                scales=SCALES[layout.anchors],
            ),
            bbox_coder=dict(type='LegacyDeltaXYWHBBoxCoder'),
        ),
        roi_head=dict(
            type='BiDetRoIHead',
            shared_head=stage_cfg(layout, sign_zero),
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0, aligned=False),
                out_channels=layout.widths[3],
                featmap_strides=[STRIDE],
            ),
            bbox_head=dict(
                type='BiDetBBoxHead',
                in_channels=layout.widths[4],
                roi_feat_size=4,
                num_classes=layout.num_classes,
                bbox_coder=dict(type='LegacyDeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
            ),
        ),
        train_cfg=None,
        test_cfg=dict(
            rpn=dict(
                nms_pre=6000,
                max_per_img=300,
                nms=dict(type='nms', iou_threshold=0.7),
                min_bbox_size=0,
            ),
            rcnn=dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.3), max_per_img=100),
        ),
    )


def classifier_cfg(layout: Layout, sign_zero: int) -> dict[str, Any]:
    """Return the config of the classifier, for mmpretrain's ``MODELS.build``."""
    return dict(
        type='ImageClassifier',
        backbone=dict(backbone_cfg(layout, sign_zero), out_copies='first'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', num_classes=layout.num_classes, in_channels=layout.widths[-1]
        ),
    )


def _build(cfg: dict[str, Any], kind: type) -> Mapping[str, Tensor]:
    """Return the state dict of a module that is built without memory."""
    options = {key: value for key, value in cfg.items() if key != 'type'}
    with without_memory():
        return kind(**options).state_dict()


def _unit_name(name: str, stage: str) -> str:
    """Return the published name of ``<unit>.<rest>`` in a stage; two units are a block."""
    unit, rest = name.split('.', 1)
    block, second = divmod(int(unit), 2)
    for own, published in UNIT.items():
        if rest.startswith(own):
            rest = published + rest[len(own) :]
            break
    return f'{stage}.{block}.conv{second + 1}.{rest}'


def _features(layout: Layout) -> Iterator[tuple[str, str, torch.Size]]:
    """Yield our name, the published name and the shape, for backbone and last stage."""
    stages = _stages(layout.is_detector)
    stem = ('RCNN_base.0.', 'RCNN_base.1.') if layout.is_detector else ('conv1.', 'bn1.')
    stems = dict(zip(('stem.conv.', 'stem.norm.'), stem))
    for key, value in _build(backbone_cfg(layout, -1), BiDetResNet).items():
        head, _, rest = key.partition('.')
        if head == 'stages':
            index, _, rest = rest.partition('.')
            name = _unit_name(rest, stages[int(index)])
        else:
            name = ''.join(replaced_prefix(key, stems))
        yield f'backbone.{key}', name, value.shape
    if layout.is_detector:
        for key, value in _build(stage_cfg(layout, -1), BiDetResStage).items():
            name = _unit_name(key, stages[-1])
            yield f'roi_head.shared_head.{key}', name, value.shape


def _heads(layout: Layout) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield our name, the published name and the shape, for the heads."""
    inner, features = layout.widths[-2:]
    classes, rpn = layout.num_classes, layout.rpn_channels
    if not layout.is_detector:
        yield 'head.fc.weight', 'fc.weight', (classes, features)
        yield 'head.fc.bias', 'fc.bias', (classes,)
        return
    layers = {
        ('rpn_head.rpn_conv', 'RCNN_rpn.RPN_Conv.0'): (rpn, inner, 3, 3),
        ('rpn_head.rpn_cls', 'RCNN_rpn.RPN_cls_score'): (2 * layout.anchors, rpn, 1, 1),
        ('rpn_head.rpn_reg', 'RCNN_rpn.RPN_bbox_pred'): (8 * layout.anchors, rpn, 1, 1),
        ('roi_head.bbox_head.fc_cls', 'RCNN_cls_score'): (classes + 1, features),
        ('roi_head.bbox_head.fc_reg', 'RCNN_bbox_pred'): (8, features),
    }
    for (own, published), shape in layers.items():
        yield f'{own}.weight', f'{published}.weight', shape
        yield f'{own}.bias', f'{published}.bias', shape[:1]
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
        yield f'rpn_head.norm.{name}', f'RCNN_rpn.RPN_Conv.1.{name}', (rpn,)
    counter = 'num_batches_tracked'
    yield f'rpn_head.norm.{counter}', f'RCNN_rpn.RPN_Conv.1.{counter}', ()


def _as_mmdet(name: str, value: Tensor) -> Tensor:
    """Convert ``value`` to mmdet's order of classes, and to one score per anchor."""
    if name.startswith('RCNN_cls_score.'):
        return value.roll(-1, 0)
    if name.startswith('RCNN_rpn.RPN_cls_score.'):
        background, foreground = value.chunk(2)
        return foreground - background
    return value


def convert(state: Mapping[str, Tensor], *, binarize: bool = False) -> Conversion:
    """Convert a published BiDet Faster R-CNN, or the classifier that initialises it.

    Raw outputs are the published ones. Boxes differ by a pixel: the published code encodes
    boxes with ``x_2 - x_1 + 1`` as their width, but decodes an ``x_2`` that is one too
    large. mmdet's legacy coder does not.

    Args:
        state: Published state dict without ``module.``.
        binarize: Whether sign(0) is -1, so that layers are really binary. If not, it is 0,
            as published. Weights are signs in both cases.

    Raises:
        ValueError: If keys are missing or too many, or shapes contradict.
    """
    layout = read_layout(state)
    sign_zero = -1 if binarize else 0
    slots = [*_features(layout), *_heads(layout)]
    shapes = {name: shape for _, name, shape in slots}
    check_fit(state, shapes, layout.title())
    new = {own: _as_mmdet(name, state[name]) for own, name, _ in slots}
    build = detector_cfg if layout.is_detector else classifier_cfg
    summary = dict(
        network=layout.title(),
        channels=', '.join(map(str, layout.widths)),
        classes=str(layout.num_classes),
        weights='binary',
    )
    if layout.is_detector:
        summary['anchors'] = f'{layout.anchors} per pixel'
    return Conversion(build(layout, sign_zero), new, summary)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Return True if ``state`` is that of a published BiDet ResNet."""
    pattern = re.compile(r'(RCNN_base\.3|layer1)\.0\.conv1\.conv\.weight')
    return any(map(pattern.fullmatch, state))


FAMILY = Family(
    name='BiDet Faster R-CNN',
    hint='keys like RCNN_base.3.0.conv1.conv.weight',
    recognises=recognises,
    convert=convert,
)
