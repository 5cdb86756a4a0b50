"""Detectors get what they read about an image, so that their operations can be counted."""

from pathlib import Path

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

import mmdet

from mmesbnn.analysis import build_model, count_ops, load_config, most_regions

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
QUERIES, WIDTH, CLASSES = 100, 256, 81


def test_detectors_with_a_transformer_have_no_regions():
    cfg = load_config(CONFIGS / 'detr/detr_r50_8xb2-150e_coco.py')
    narrow = {
        'model.backbone.base_channels': 4,
        'model.backbone.depth': 18,
        'model.backbone.init_cfg': None,
        'model.neck.in_channels': [32],
        'model.encoder.num_layers': 1,
        'model.decoder.num_layers': 1,
    }
    cfg.merge_from_dict(narrow)
    model = build_model(cfg)
    regions, arguments = most_regions(model, (3, 64, 64))
    layers = {layer.name: layer for layer in count_ops(model, (3, 64, 64), **arguments).layers}
    assert regions == 0
    assert layers['bbox_head.fc_cls'].fp_macs == QUERIES * WIDTH * CLASSES
    assert layers['encoder.layers.0.ffn.layers.1'].fp_macs == 4 * 2048 * WIDTH
