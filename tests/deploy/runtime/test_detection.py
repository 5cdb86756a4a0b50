"""The runner finds what mmdet finds, from the file to the boxes."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from PIL import Image

from mmesbnn.analysis import build_model
from mmesbnn.deploy import ExportError, Runner
from mmesbnn.deploy.tasks.detection import detection_decoding
from tests.deploy.apart import check_found
from tests.real_data import photograph

pytest.importorskip('mmdet')
pytest.importorskip('mmcv.ops')
pytest.importorskip('openvino')

from mmesbnn.deploy.openvino.export import export
from mmesbnn.deploy.tasks.make import make_task

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

BACKBONE = dict(
    type='ResNet',
    depth=18,
    base_channels=8,
    num_stages=4,
    out_indices=(0, 1, 2, 3),
    norm_cfg=dict(type='BN'),
    norm_eval=False,
)
NECK = dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4)
NMS = dict(type='nms', iou_threshold=0.5)

RETINANET = dict(
    type='RetinaNet',
    backbone=BACKBONE,
    neck=NECK,
    bbox_head=dict(
        type='RetinaHead',
        num_classes=3,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=1,
            ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32],
        ),
    ),
    test_cfg=dict(nms_pre=50, min_bbox_size=0, score_thr=0.05, nms=NMS, max_per_img=40),
)

# the convolutions of its head are binary
FCOS = dict(
    type='FCOS',
    backbone=BACKBONE,
    neck=NECK,
    bbox_head=dict(
        type='FCOSHead',
        num_classes=3,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        strides=[4, 8, 16, 32],
        regress_ranges=((-1, 16), (16, 32), (32, 64), (64, 1e8)),
        conv_cfg=dict(type='ESConv2d', tau=2),
        norm_cfg=dict(type='BN'),
    ),
    test_cfg=dict(nms_pre=50, min_bbox_size=0, score_thr=0.05, nms=NMS, max_per_img=40),
)


def make_config(model, pipeline=PIPELINE):
    preprocessor = dict(
        type='DetDataPreprocessor',
        mean=[123.7, 116.3, 103.5],
        std=[58.4, 57.1, 57.4],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    )
    return Config(
        dict(
            default_scope='mmdet',
            model=dict(model, data_preprocessor=preprocessor),
            test_dataloader=dict(
                dataset=dict(
                    type='VOCDataset',
                    pipeline=pipeline,
                    metainfo=dict(classes=('cat', 'dog', 'eel')),
                )
            ),
        )
    )


def build(cfg):
    """Build the detector; its scores and boxes are almost equal."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = build_model(cfg)
    model.init_weights()
    for module in model.bbox_head.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.normal_(std=0.1)
            if module.bias is not None:
                module.bias.data.normal_(std=0.5)
    # statistics of real images
    model.train()
    with torch.no_grad():
        for i in range(8):
            image = torch.from_numpy(photograph(i)[:96, :128].copy())
            image = image.permute(2, 0, 1)[None].float().sub(115).div(58)
            model.bbox_head(model.extract_feat(image))
    return model.eval()


def mmdet_boxes(model, path, pipeline=PIPELINE):
    batch = pseudo_collate([Compose(pipeline)(dict(img_path=str(path)))])
    with torch.no_grad():
        found = model.test_step(batch)[0].pred_instances
    return {k: found[k].numpy() for k in ('bboxes', 'scores', 'labels')}


@pytest.mark.slow
@pytest.mark.parametrize('network', [RETINANET, FCOS], ids=lambda n: n['type'])
def test_boxes_of_mmdet(network, tmp_path):
    cfg = make_config(network)
    model = build(cfg)
    task = make_task(cfg, model, (96, 128), 1)
    export(task, tmp_path / 'export')
    runner = Runner(tmp_path / 'export', threads=1)
    assert runner.manifest.classes == ('cat', 'dog', 'eel')
    # images that fill the network's input; mmdet pads other images to other sizes
    for i, (height, width) in enumerate([(300, 400), (96, 128), (60, 80)]):
        path = tmp_path / f'{i}.png'
        Image.fromarray(photograph(i)[:height, :width]).save(path)
        ours, theirs = runner(path), mmdet_boxes(model, path)
        assert len(theirs['scores']) > 5
        check_found(ours, theirs, (height, width))
    with pytest.warns(UserWarning, match='200x150 .*shrinks it to 96x72 instead'):
        boxes = runner(photograph(0)[:200, :150])['bboxes']
    assert (boxes >= 0).all()
    assert (boxes <= [150, 200, 150, 200]).all()


def check_same(ours, theirs):
    """Compare boxes in any order, because many boxes of padding have equal scores."""
    last = theirs['scores'].min() + 1e-4  # of equal boxes, either may be the last
    for box, score, label in zip(*(theirs[k] for k in ('bboxes', 'scores', 'labels'))):
        near = (np.abs(ours['bboxes'] - box) < 0.05).all(1) & (ours['labels'] == label)
        assert score < last or (np.abs(ours['scores'][near] - score) < 1e-4).any()


#: Padding of images before they are normalised, and the network's input.
PADS = {
    'to a size': ([dict(type='Pad', size=(128, 128))], (128, 128)),
    'to a divisor': ([dict(type='Pad', size_divisor=64)], (128, 128)),
    # as RTMDet and YOLOX do
    'letterbox': (
        [dict(type='Pad', size=(128, 128), pad_val=dict(img=(114, 114, 114)))],
        (128, 128),
    ),
    'square': (
        [dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 90.0, 3.0)))],
        (128, 128),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', PADS)
def test_boxes_of_mmdet_where_the_pipeline_pads(kind, tmp_path):
    steps, size = PADS[kind]
    pipeline = [*PIPELINE[:2], *steps, PIPELINE[-1]]
    cfg = make_config(RETINANET, pipeline)
    model = build(cfg)
    export(make_task(cfg, model, size, 1), tmp_path / 'export')
    runner = Runner(tmp_path / 'export', threads=1)
    for i, shape in enumerate([(300, 400), (96, 128), (60, 80)]):
        path = tmp_path / f'{i}.png'
        Image.fromarray(photograph(i)[: shape[0], : shape[1]]).save(path)
        ours, theirs = runner(path), mmdet_boxes(model, path, pipeline)
        assert len(ours['scores']) == len(theirs['scores']) > 5
        check_same(ours, theirs)


def test_detectors_that_crop_are_refused():
    cfg = make_config(RETINANET, [*PIPELINE[:2], dict(type='CenterCrop', crop_size=64)])
    with pytest.raises(ExportError, match='CenterCrop in the test pipeline of a det'):
        detection_decoding(cfg)
