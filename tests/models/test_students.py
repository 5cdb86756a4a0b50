"""Students of mmdet's detectors with teachers are tested, packed and exported alone."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

from mmesbnn.deploy import load_packed, pack
from mmesbnn.project import build_model
from tests.deploy.packed.nets import shaken

BACKBONE = dict(
    type='BNext', arch=dict(channels=[16, 16, 16], depths=[1, 1]), out_indices=(1,), tau=2
)
NECK = dict(type='FPN', in_channels=[16], out_channels=8, num_outs=1)


def head(kind, **options):
    return dict(
        type=kind,
        num_classes=2,
        in_channels=8,
        feat_channels=32,
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8],
        ),
        **options,
    )


QUALITY = dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0)
DISTILLED = dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10)


def teacher():
    return dict(
        type='GFL', backbone=BACKBONE, neck=NECK, bbox_head=head('GFLHead', loss_cls=QUALITY)
    )


DETECTORS = {
    'KnowledgeDistillationSingleStageDetector': dict(
        bbox_head=head('LDHead', loss_cls=QUALITY, loss_ld=DISTILLED),
        teacher_config=dict(model=teacher()),
    ),
    'LAD': dict(
        bbox_head=head('LADHead'),
        teacher_backbone=BACKBONE,
        teacher_neck=NECK,
        teacher_bbox_head=head('LADHead'),
    ),
}


@pytest.mark.parametrize('kind', DETECTORS)
def test_detectors_are_packed_without_teachers(tmp_path, kind):
    model = dict(
        type=kind, backbone=BACKBONE, neck=NECK, teacher_ckpt=None, **copy.deepcopy(DETECTORS[kind])
    )
    cfg = Config(dict(default_scope='mmdet', model=model))
    with DefaultScope.overwrite_default_scope('mmdet'):
        trained, student = MODELS.build(copy.deepcopy(cfg.model)), build_model(cfg)
    assert type(student).__name__ == 'SingleStageDetector'
    trained.load_state_dict(shaken(student).state_dict(), strict=True)
    trained.eval()
    pack(student, tmp_path / 'net.safetensors', config=cfg)
    packed = load_packed(tmp_path / 'net.safetensors')
    images = torch.randn(1, 3, 32, 32)
    for network in (student, packed):
        for ours, theirs in zip(network(images), trained(images), strict=True):
            assert torch.equal(ours[0], theirs[0])
