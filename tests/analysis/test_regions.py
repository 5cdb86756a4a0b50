"""Detectors get what they read about an image, so that their operations can be counted."""

from pathlib import Path

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

import mmdet

from mmesbnn.analysis import build_model, count_ops, load_config, most_regions

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
QUERIES, WIDTH, CLASSES = 100, 256, 81


def counted(cfg, narrow):
    """Return the largest number of regions of a detector of ``cfg``, and its counted layers."""
    backbone = dict(base_channels=4, depth=18, init_cfg=None)
    cfg.merge_from_dict({'model.backbone': backbone, **narrow})
    model = build_model(cfg)
    regions, arguments = most_regions(model, (3, 64, 64))
    layers = count_ops(model, (3, 64, 64), **arguments).layers
    return regions, {layer.name: layer for layer in layers}


def test_detectors_with_a_transformer_have_no_regions():
    cfg = load_config(CONFIGS / 'detr/detr_r50_8xb2-150e_coco.py')
    narrow = {
        'model.neck.in_channels': [32],
        'model.encoder.num_layers': 1,
        'model.decoder.num_layers': 1,
    }
    regions, layers = counted(cfg, narrow)
    assert regions == 0
    assert layers['bbox_head.fc_cls'].fp_macs == QUERIES * WIDTH * CLASSES
    assert layers['encoder.layers.0.ffn.layers.1'].fp_macs == 4 * 2048 * WIDTH


def test_learned_regions_are_always_equally_many():
    cfg = load_config(CONFIGS / 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py')
    narrow = {
        'model.neck.in_channels': [4, 8, 16, 32],
        'model.roi_head.num_stages': 1,
        'model.roi_head.stage_loss_weights': [1],
        'model.roi_head.bbox_head': cfg.model.roi_head.bbox_head[:1],
    }
    regions, layers = counted(cfg, narrow)
    assert regions == 100
    assert layers['roi_head.bbox_head.0.fc_cls'].fp_macs == regions * WIDTH * 80


def test_maskformer_reads_the_sizes_of_images():
    cfg = load_config(CONFIGS / 'maskformer/maskformer_r50_ms-16xb1-75e_coco.py')
    narrow = {
        'model.panoptic_head.in_channels': [4, 8, 16, 32],
        'model.panoptic_head.transformer_decoder.num_layers': 1,
    }
    regions, layers = counted(cfg, narrow)
    assert regions == 0
    assert layers['panoptic_head.cls_embed'].fp_macs == QUERIES * WIDTH * 134
