"""Narrow detectors from the configs: the tool exports them, and they run like mmdet."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip('openvino')
pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope

from mmesbnn import native
from mmesbnn.analysis import build_model, load_config
from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.deploy import Runner
from mmesbnn.deploy.runtime.network import ENGINES
from tests.analysis.digits import run_tool
from tests.deploy.apart import check_found
from tests.real_data import photograph

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'

FCOS = """
_base_ = [{base!r}]
model = dict(test_cfg=dict(nms_pre=30, score_thr=0.3))
"""

SSD = """
_base_ = [{base!r}]
widths = (32, 64, 32, 16, 16, 16)
model = dict(
    backbone=dict(
        arch=dict(channels=[4, 4, 8, 16, 32, 32, 64], depths=[1, 3, 4, 4, 4]),
        init_cfg=None),
    neck=dict(in_channels=widths[:2], out_channels=widths),
    bbox_head=dict(in_channels=widths, num_classes=5),
    test_cfg=dict(max_per_class=50, score_thr=0.2))
"""

FASTER_RCNN = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(
        widths=(8, 8, 16, 32), depths=(2, 2, 2), frozen_stages=-1, init_cfg=None),
    rpn_head=dict(
        in_channels=32, feat_channels=32, anchor_generator=dict(scales=[2, 4])),
    roi_head=dict(
        shared_head=dict(in_channels=32, out_channels=64, depth=2, init_cfg=None),
        bbox_roi_extractor=dict(out_channels={pooled}),
        bbox_head=dict(in_channels=64, num_classes=5)),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=40)))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
"""

NETWORKS = {
    'fcos': (FCOS, 'demo/es_bnext_fcos_mini_voc.py', (96, 96)),
    'ssd': (SSD, 'bidet/bidet-ssd300_2xb16-300k_voc0712.py', (300, 300)),
    'es-ssd': (SSD, 'es_bidet/es-bidet-ssd300_2xb16-300k_voc0712.py', (300, 300)),
    'faster-rcnn': (
        FASTER_RCNN.replace('{pooled}', '32'),
        'bidet/bidet-faster-rcnn_r18-c4_8xb4-50e_voc0712.py',
        (96, 128),
    ),
    'es-faster-rcnn': (
        FASTER_RCNN.replace('{pooled}', '64'),
        'es_bidet/es-bidet-faster-rcnn_r18-c4_8xb4-50e_voc0712.py',
        (96, 128),
    ),
}


def calibrated(cfg, size):
    """Return a detector with statistics of photographs and different scores and boxes."""
    from mmdet.structures import DetDataSample

    torch.manual_seed(0)
    model = build_model(cfg)
    model.init_weights()
    # what predicts
    last = (
        'conv_cls',
        'conv_reg',
        'conv_centerness',
        'fc_cls',
        'fc_reg',
        'rpn_cls',
        'rpn_reg',
        'cls_convs',
        'reg_convs',
    )
    for name, parameter in model.named_parameters():
        if any(f'.{part}.' in name for part in last):
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.data.normal_(std=0.5 / fan_in**0.5)
    images = torch.stack(
        [torch.from_numpy(photograph(i)[: size[0], : size[1]].copy()) for i in range(4)]
    )
    x = model.data_preprocessor({'inputs': list(images.permute(0, 3, 1, 2)), 'data_samples': None})[
        'inputs'
    ]
    samples = [
        DetDataSample(metainfo=dict(img_shape=size, scale_factor=(1.0, 1.0))) for _ in images
    ]
    forward = model.forward
    model.forward = lambda x: forward(x, samples, mode='tensor')
    lifelike(model, x)
    model.forward = forward
    return model


def of_mmdet(model, cfg, path):
    """Return mmdet's detections in a file."""
    pipeline = [
        step for step in cfg.test_dataloader.dataset.pipeline if step['type'] != 'LoadAnnotations'
    ]
    keys = ('img_path', 'ori_shape', 'img_shape', 'scale_factor')
    pipeline[-1] = dict(type='PackDetInputs', meta_keys=keys)
    batch = pseudo_collate([Compose(pipeline)(dict(img_path=str(path)))])
    with torch.no_grad():
        found = model.test_step(batch)[0].pred_instances
    return {k: found[k].numpy() for k in ('bboxes', 'scores', 'labels')}


@pytest.mark.slow
@pytest.mark.parametrize('kind', NETWORKS)
def test_finds_what_mmdet_finds(kind, tmp_path, monkeypatch, capsys):
    text, base, size = NETWORKS[kind]
    config, weights = tmp_path / 'config.py', tmp_path / 'weights.pth'
    config.write_text(text.format(base=str(CONFIGS / base)))
    cfg = load_config(config)
    init_default_scope('mmdet')
    model = calibrated(cfg, size)
    torch.save(dict(state_dict=model.state_dict(), meta={}), weights)
    arguments = (
        'export.py',
        config,
        weights,
        '--out',
        tmp_path / 'net',
        '--shape',
        *size,
        '--strict',
    )
    dynamic = () if 'rcnn' in kind else ('--dynamic-batch',)
    code = run_tool(*arguments, *dynamic, monkeypatch=monkeypatch)
    printed, told = capsys.readouterr()
    assert code == 0, told
    assert 'in full precision' not in printed
    assert 'model.native' in printed and 'head.bin' in printed
    assert Runner(tmp_path / 'net').engine == ('native' if native.available() else 'openvino')
    init_default_scope('mmdet')
    height, width = size
    paths = [tmp_path / f'{i}.png' for i in range(2)]
    for i, path in enumerate(paths):
        image = Image.fromarray(photograph(i)[: 3 * height // 2, : 3 * width // 2])
        image.resize((2 * width, 2 * height)).save(path)
    theirs = [of_mmdet(model, cfg, path) for path in paths]
    assert all(len(found['scores']) > 5 for found in theirs)
    for engine in ENGINES if native.available() else ['openvino']:
        runner = Runner(tmp_path / 'net', engine=engine, threads=1)
        for one, expected in zip(runner(paths, batch_size=2), theirs):
            check_found(one, expected, (2 * height, 2 * width))
            ours = one
    if 'ssd' in kind:
        # boxes may extend outside of the image; the dilated convolution runs on bits
        assert ours['bboxes'].min() < 0
        layers = json.loads((tmp_path / 'net' / 'report.json').read_text())['layers']
        (dilated,) = (x for x in layers if x['layer'].endswith('stages.5.0.conv'))
        assert dilated['binary'] and dilated['reason'] is None
    onnx = ('export_onnx.py', config, weights, tmp_path / 'net.onnx', '--shape', *size)
    if 'rcnn' in kind:
        for command in ((*arguments, '--dynamic-batch'), onnx):
            assert run_tool(*command, monkeypatch=monkeypatch) == 2
            assert 'for one image at a time' in capsys.readouterr().err
        onnx = (*onnx, '--fixed-batch')
    elif 'ssd' in kind:
        return
    pytest.importorskip('onnxruntime')
    assert run_tool(*onnx, monkeypatch=monkeypatch) == 0, capsys.readouterr().err
    assert f'{"scores" if "rcnn" in kind else "factors"}: ' in capsys.readouterr().out
