"""Packed files of all families."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.utils._pytree import tree_leaves

import mmesbnn
from mmesbnn.analysis import build_model, load_config
from mmesbnn.deploy import load_packed, pack
from tests.deploy.packed.nets import ROOT, shaken

pytest.importorskip('safetensors')


def narrow_unet():
    return dict(
        type='BIDiffSRUNet',
        base_channels=8,
        num_levels=3,
        blocks_per_level=1,
        norm_groups=2,
        fp_levels=(0,),
        tau=2,
    )


@pytest.mark.parametrize('alone', [True, False])
def test_super_resolution(alone, tmp_path):
    pytest.importorskip('diffusers')
    path = tmp_path / 'net.safetensors'
    if alone:  # a model of diffusers knows its own config
        model = shaken(MODELS.build(narrow_unet()))
        pack(model, path)
        unet, loaded = model, load_packed(path)
    else:
        options = {'model.unet': dict(narrow_unet(), _delete_=True)}
        name = 'es-bi-diffsr-x2_4xb4_df2k.py'
        cfg = load_config(ROOT / 'configs' / 'bi_diffsr' / name, options)
        model = shaken(build_model(cfg))
        pack(model, path, config=cfg)
        unet, loaded = model.unet, load_packed(path).unet
    sample, timestep = torch.randn(2, 6, 16, 16), torch.tensor([3, 1500])
    with torch.no_grad():
        expected = unet(sample, timestep).sample
        assert torch.equal(loaded(sample, timestep).sample, expected)
    assert loaded.config.fp_levels == (0,)


@pytest.mark.slow
def test_detectors(tmp_path):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops')
    from tests.deploy.runtime.test_detection import FCOS, make_config

    cfg = make_config(FCOS)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = shaken(build_model(cfg))
    path = tmp_path / 'net.safetensors'
    pack(model, path, config=cfg)
    loaded = load_packed(path)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = model(x, mode='tensor'), loaded(x, mode='tensor')
    for one, other in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        assert torch.equal(one, other)
    assert loaded._dataset_meta['classes'] == ('cat', 'dog', 'eel')


def two_stage(name):
    """Return a narrow two-stage detector's config, of this repository or of mmdet."""

    if name == 'stock':
        import mmdet

        base = Path(mmdet.__file__).parent / '.mim' / 'configs' / 'faster_rcnn'
        cfg = Config.fromfile(base / 'faster-rcnn_r50_fpn_1x_coco.py')
        conv = dict(type='ESConv2d', tau=2)
        cfg.merge_from_dict(
            {
                'model.backbone.base_channels': 4,
                'model.backbone.init_cfg': None,
                'model.backbone.depth': 18,
                'model.backbone.conv_cfg': conv,
                'model.neck.in_channels': [4, 8, 16, 32],
            }
        )
    else:
        cfg = load_config(
            ROOT / 'configs' / name,
            {
                'model.backbone.widths': (8, 8, 16, 256),
                'model.backbone.init_cfg': None,
                'model.roi_head.shared_head.init_cfg': None,
            },
        )
    cfg.model.test_cfg.rpn.update(nms_pre=100, max_per_img=20)
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', ['bidet/bidet-faster-rcnn_r18-c4_8xb4-50e_voc0712.py', 'stock'])
def test_two_stage_detectors(name, tmp_path):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops')
    from mmdet.structures import DetDataSample

    cfg = two_stage(name)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = shaken(build_model(cfg))
    path = tmp_path / 'net.safetensors'
    pack(model, path, config=cfg)
    loaded = load_packed(path)
    x = torch.randn(1, 3, 64, 96)
    meta = dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=meta)
    with torch.no_grad():
        ours = model.predict(x, [sample.clone()])[0].pred_instances
        theirs = loaded.predict(x, [sample.clone()])[0].pred_instances
    assert len(ours) > 5
    for key in ('bboxes', 'scores', 'labels'):
        assert torch.equal(ours[key], theirs[key])


@pytest.mark.slow
def test_es_bnext_tiny_takes_at_most_nine_megabytes(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = load_config(ROOT / 'configs' / 'es_bnext_tiny.py')
    model = shaken(build_model(cfg))
    report = pack(model, tmp_path / 'net.safetensors', config=cfg, half=True)
    assert report.parts['bits of binary weights'] == 28_253_184 / 8
    assert report.kept_full == []
    assert report.size <= 9_000_000


#: mmdet's own components, with options that make large ones small.
DETECTORS = {
    'tood/tood_r50_fpn_1x_coco': dict(depth=18),
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco': dict(depth=18),
    'centernet/centernet_r18_8xb16-crop512-140e_coco': {},
}


def binarized_detector(name):
    """A stock detector made binary, ready to find boxes whatever their scores; its config."""
    import mmdet

    cfg = load_config(Path(mmdet.__file__).parent / '.mim' / 'configs' / f'{name}.py')
    cfg.model.backbone.update(DETECTORS[name], init_cfg=None)
    if DETECTORS[name]:
        cfg.model.neck.in_channels = [64, 128, 256, 512]
    test = cfg.model.test_cfg
    test.get('rcnn', test).score_thr = 0.0
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build_model(cfg)
    mmesbnn.binarize(model, tau=2)
    return model.eval(), cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', DETECTORS)
def test_binarized_detectors(name, tmp_path):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops')
    from mmdet.structures import DetDataSample

    model, cfg = binarized_detector(name)
    shaken(model)
    path = tmp_path / 'net.safetensors'
    pack(model, path, config=cfg)
    x, size = torch.randn(1, 3, 96, 128), (96, 128)
    meta = dict(img_shape=size, ori_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=dict(meta, border=[0, 96, 0, 128]))
    with torch.no_grad():
        ours = model.predict(x, [sample.clone()])[0].pred_instances
    assert len(ours) > 5
    # into a network that is binary, and into one that the stored config and options make
    for target in (binarized_detector(name)[0], None):
        with torch.no_grad():
            loaded = load_packed(path, target).predict(x, [sample.clone()])[0].pred_instances
        for key, value in ours.items():
            assert torch.equal(loaded[key], value)
