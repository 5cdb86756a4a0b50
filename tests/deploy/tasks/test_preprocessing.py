"""Manifests have the preprocessing and decoding of the configs."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from PIL import Image
from torch import nn

from mmesbnn.analysis import build_model, load_config
from mmesbnn.deploy.runtime.decoding import classify
from mmesbnn.deploy.runtime.detection_decoding import DetectionDecoding
from mmesbnn.deploy.runtime.images import read_image
from mmesbnn.deploy.runtime.manifest import ExportError
from mmesbnn.deploy.runtime.steps import apply_steps, normalize
from mmesbnn.deploy.tasks.classification import classification_decoding
from mmesbnn.deploy.tasks.detection import box_border, detection_decoding
from mmesbnn.deploy.tasks.preprocessing import check_preprocessor, preprocessing_of, steps_of
from mmesbnn.deploy.tasks.super_resolution import sampling_decoding
from mmesbnn.project import class_names
from tests.deploy.packed.nets import ROOT
from tests.real_data import photograph

CROP = dict(type='CenterCrop', crop_size=8)
CONFIGS = ('es_bnext_tiny.py', 'demo/es_bnext_digits.py')


def pipeline_input(cfg, path):
    """Return the input that the config's own pipeline and preprocessor make of a file."""
    from mmengine.dataset import Compose, pseudo_collate

    model = build_model(cfg)
    transforms = Compose(cfg.test_dataloader.dataset.pipeline)
    batch = pseudo_collate([transforms(dict(img_path=str(path)))])
    return model.data_preprocessor(batch, False)['inputs'][0].numpy()


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('size', [(97, 131), (8, 8), (300, 200)])
def test_classifiers_see_what_they_see_in_mmpretrain(name, size, tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = load_config(ROOT / 'configs' / name)
    path = tmp_path / 'image.png'
    Image.fromarray(photograph(1)).crop((0, 0, *size[::-1])).save(path)
    preprocessing = preprocessing_of(cfg)
    found = apply_steps(read_image(path), preprocessing.steps)
    found = normalize(found, preprocessing).transpose(2, 0, 1)
    expected = pipeline_input(cfg, path)
    assert found.dtype == expected.dtype
    # equal, except for single grey levels where OpenCV resizes bicubically
    level = 1 / min(preprocessing.std)
    np.testing.assert_allclose(found, expected, atol=1.001 * level)
    assert (np.abs(found - expected) > 1e-6).mean() < 1e-3


def test_classifiers_of_cifar_see_red_first():
    pytest.importorskip('mmpretrain')
    from mmengine.dataset import Compose, pseudo_collate

    cfg = load_config(ROOT / 'configs' / 'bnext' / 'bnext-tiny_b512_cifar10.py')
    image = photograph(1)[:32, :32]
    # the images of this data set are arrays in RGB
    item = Compose(cfg.test_dataloader.dataset.pipeline)(dict(img=image, gt_label=0))
    expected = build_model(cfg).data_preprocessor(pseudo_collate([item]), False)['inputs'][0]
    preprocessing = preprocessing_of(cfg)
    assert preprocessing.to_rgb
    found = normalize(apply_steps(image, preprocessing.steps), preprocessing).transpose(2, 0, 1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-6)


def test_detectors_see_what_they_see_in_mmdet(tmp_path):
    pytest.importorskip('mmdet')
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=dict(
                type='RetinaNet',
                data_preprocessor=dict(
                    type='DetDataPreprocessor',
                    mean=[103.5, 116.3, 123.7],
                    std=[57.4, 57.1, 58.4],
                    bgr_to_rgb=False,
                    pad_size_divisor=32,
                ),
                test_cfg=dict(
                    nms_pre=1000,
                    score_thr=0.05,
                    max_per_img=100,
                    min_bbox_size=0,
                    nms=dict(type='nms', iou_threshold=0.6),
                ),
            ),
            test_dataloader=dict(
                dataset=dict(
                    type='VOCDataset',
                    pipeline=[
                        dict(type='LoadImageFromFile'),
                        dict(type='Resize', scale=(200, 120), keep_ratio=True),
                        dict(type='LoadAnnotations', with_bbox=True),
                        dict(type='PackDetInputs'),
                    ],
                )
            ),
        )
    )
    assert class_names(cfg)[:2] == ['aeroplane', 'bicycle']
    assert detection_decoding(cfg) == DetectionDecoding(
        score_thr=0.05,
        iou_thr=0.6,
        max_per_image=100,
        min_size=0,
        levels=None,
        nms_pre=1000,
        max_per_class=None,
        border=0,
    )
    preprocessing = preprocessing_of(cfg)
    assert (preprocessing.pad_divisor, preprocessing.to_rgb) == (32, False)
    import mmcv

    for shape in ((300, 400), (333, 111), (80, 81)):
        image = photograph(0)[: shape[0], : shape[1]]
        expected = mmcv.imrescale(image[..., ::-1], (200, 120), backend='cv2')
        found = apply_steps(image, preprocessing.steps)
        np.testing.assert_array_equal(found[..., ::-1], expected)
    mean, std = (np.float32(values) for values in (preprocessing.mean, preprocessing.std))
    np.testing.assert_array_equal(
        normalize(found, preprocessing), (np.float32(expected) - mean) / std
    )


def test_every_step():
    steps = steps_of(
        [
            dict(type='LoadImageFromFile'),
            dict(type='mmdet.Resize', scale=(30, 20)),
            dict(type='CenterCrop', crop_size=(10, 12)),
            dict(type='Pad', size=(16, 14), pad_val=dict(img=7)),
            dict(type='Pad', size_divisor=5),
            dict(type='PackInputs'),
        ]
    )
    result = apply_steps(photograph(0), steps)
    assert result.shape == (15, 20, 3)
    assert (result[:12, :10] != 7).any()
    assert (result[12:14, :16] == 7).all()
    assert (result[14:] == 0).all()
    assert (result[:, 16:] == 0).all()


class Halving(ImgDataPreprocessor):
    """A user's preprocessor, which changes images further than its arguments say."""

    def forward(self, data, training=False):
        data = super().forward(data, training)
        return {**data, 'inputs': data['inputs'] / 2}


@pytest.mark.parametrize('dataset', ['CIFAR10', 'CustomDataset'])
@pytest.mark.parametrize('rgb', [False, True])
def test_a_data_preprocessor_that_does_more_is_refused(rgb, dataset):
    options = dict(mean=[9.0, 8.0, 7.0], std=[4.0, 5.0, 6.0], bgr_to_rgb=rgb, pad_size_divisor=4)
    data = dict(dataset=dict(type=dataset, pipeline=[CROP]))
    cfg = Config(dict(model=dict(type='x'), data_preprocessor=options, test_dataloader=data))
    preprocessing, model = preprocessing_of(cfg), nn.Module()
    check_preprocessor(cfg, model, preprocessing)
    model.data_preprocessor = ImgDataPreprocessor(**options)
    check_preprocessor(cfg, model, preprocessing)
    model.data_preprocessor = Halving(**options)
    with pytest.raises(ExportError, match='the data preprocessor Halving makes other inputs'):
        check_preprocessor(cfg, model, preprocessing)


@pytest.mark.parametrize(
    ('transform', 'words'),
    [
        (dict(type='RandomErasing'), 'transform RandomErasing'),
        (dict(type='Resize', scale_factor=2), 'Resize without a scale'),
        (dict(type='Resize', scale=9, interpolation='area'), "interpolation='area'"),
        (dict(type='CenterCrop', crop_size=9, auto_pad=True), 'auto_pad'),
        (dict(type='Pad'), 'Pad without a size'),
        (dict(type='Pad', size=9, pad_val='x'), "pad_val='x' must be a number or th"),
        (dict(type='Pad', size=9, padding_mode='edge'), "padding_mode='edge'"),
    ],
)
def test_transforms_without_a_step(transform, words):
    with pytest.raises(ExportError, match=words):
        steps_of([transform])


@pytest.mark.parametrize('colours', ['grayscale', 'unchanged', 'color_ignore_orientation'])
def test_other_ways_to_decode_files_are_refused(colours):
    load = dict(type='LoadImageFromFile', color_type=colours)
    with pytest.raises(ExportError, match=f"color_type='{colours}' is not supported, only"):
        steps_of([load])
    # the runner reads no files for a network with one channel
    assert steps_of([load], channels=1) == ()


def test_floats_are_refused_where_the_runner_would_round():
    load = dict(type='LoadImageFromFile', to_float32=True)
    with pytest.raises(ExportError, match='to_float32=True is not supported before a resize'):
        steps_of([load, dict(type='ResizeEdge', scale=9)])
    exact = [dict(type='Resize', scale=9, interpolation='nearest'), dict(type='Pad', size=(12, 12))]
    assert len(steps_of([load, *exact])) == 2


@pytest.mark.parametrize(
    ('test', 'name'),
    [
        (dict(max_per_img=-1), 'test_cfg'),
        (dict(rcnn=dict(max_per_img=100), rpn=dict(max_per_img=-1)), r'test_cfg\.rpn'),
    ],
)
def test_limits_by_which_mmdet_drops_boxes_are_refused(test, name):
    model = dict(type='X', test_cfg=test)
    with pytest.raises(ExportError, match=rf'{name}\.max_per_img=-1 must be 1 or more'):
        detection_decoding(Config(dict(default_scope='mmdet', model=model)))


def test_all_boxes_of_a_second_stage():
    test = dict(rcnn=dict(max_per_img=-1), rpn=dict(max_per_img=100))
    model = dict(type='FasterRCNN', test_cfg=test)
    decoding = detection_decoding(Config(dict(default_scope='mmdet', model=model)))
    assert decoding.max_per_image == -1


def test_other_kinds_of_nms():
    model = dict(type='RetinaNet', test_cfg=dict(nms=dict(type='soft_nms')))
    with pytest.raises(ExportError, match="nms type 'soft_nms'"):
        detection_decoding(Config(dict(default_scope='mmdet', model=model)))


@pytest.mark.parametrize('option', [dict(type='soft_nms'), dict(class_agnostic=True)], ids=str)
def test_other_kinds_of_nms_of_proposals(option):
    test = dict(rpn=dict(nms=dict(type='nms', iou_threshold=0.7) | option), rcnn=dict(score_thr=0))
    model = dict(type='FasterRCNN', test_cfg=test)
    with pytest.raises(ExportError, match=r'test_cfg\.rpn: nms.* is not supported'):
        detection_decoding(Config(dict(default_scope='mmdet', model=model)))


@pytest.mark.parametrize(
    'option',
    [
        dict(class_agnostic=True),
        dict(offset=1),
        dict(score_threshold=0.3),
        dict(max_num=5),
        dict(iou_thr=0.3),
    ],
    ids=str,
)
def test_options_of_nms_that_the_runner_lacks(option):
    ((name, value),) = option.items()
    nms = dict(type='nms', iou_threshold=0.5)
    model = dict(type='RetinaNet', test_cfg=dict(nms={**nms, **option}))
    with pytest.raises(ExportError, match=f'nms: {name}={value} is not supported'):
        detection_decoding(Config(dict(default_scope='mmdet', model=model)))
    usual = dict(class_agnostic=False, offset=0, score_threshold=0.0, max_num=-1, split_thr=1)
    model = dict(type='RetinaNet', test_cfg=dict(nms={**nms, **usual}))
    assert detection_decoding(Config(dict(default_scope='mmdet', model=model))).iou_thr == 0.5


def test_without_a_threshold_all_scores_count_as_in_mmdet():
    cfg = Config(dict(default_scope='mmdet', model=dict(type='RetinaNet', test_cfg={})))
    assert detection_decoding(cfg).score_thr == 0


def test_a_config_without_a_test_pipeline():
    with pytest.warns(UserWarning, match='no test pipeline'):
        assert preprocessing_of(Config(dict(model=dict(type='x')))).steps == ()


def test_values_that_the_runner_cannot_take():
    with pytest.raises(ExportError, match=r'Resize: size\[0\]=0 must be'):
        steps_of([dict(type='Resize', scale=0)])
    model = dict(type='RetinaNet', test_cfg=dict(score_thr=2))
    with pytest.raises(ExportError, match='test_cfg: score_thr=2 must be'):
        detection_decoding(Config(dict(default_scope='mmdet', model=model)))


@pytest.mark.parametrize(
    ('head', 'activation'),
    [
        (dict(type='LinearClsHead'), 'softmax'),
        (dict(type='MultiLabelLinearClsHead'), 'sigmoid'),
        (dict(type='CSRAClsHead', num_heads=1, lam=0.1), 'sigmoid'),
    ],
    ids=str,
)
def test_scores_are_those_of_the_head(head, activation):
    pytest.importorskip('mmpretrain')
    cfg = load_config(ROOT / 'configs' / 'demo' / 'es_bnext_digits.py')
    width = cfg.model.head.in_channels
    cfg.model.head = dict(head, num_classes=3, in_channels=width)
    if head['type'] == 'CSRAClsHead':  # which reads maps
        cfg.model.neck = None
    model = build_model(cfg).eval()
    decoding = classification_decoding(model)
    assert decoding.activation == activation
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (expected,) = model(image, mode='predict')
        ours = classify(model(image)[0].numpy(), decoding.activation, None)
    np.testing.assert_allclose(ours['pred_scores'], expected.pred_score, rtol=1e-5)


def test_names_of_the_checkpoint_come_first():
    pytest.importorskip('mmpretrain')
    cfg = load_config(ROOT / 'configs' / 'es_bnext_tiny.py')
    assert len(class_names(cfg)) == 1000
    names = [f'my {i}' for i in range(1000)]
    assert class_names(cfg, {'classes': names}) == names


def test_names_of_other_classes_are_left_out():
    pytest.importorskip('mmpretrain')
    cfg = load_config(ROOT / 'configs' / 'es_bnext_tiny.py')
    cfg.model.head.num_classes = 2
    with pytest.warns(UserWarning, match='1000 names .* num_classes=2'):
        assert class_names(cfg) is None
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert class_names(cfg, {'classes': ('a', 'b')}) == ['a', 'b']


PADS = [
    dict(size=(90, 80)),
    dict(size=(90, 80), pad_val=7),
    dict(size=(90, 80), pad_val=dict(img=7.0)),
    dict(size=(90, 80), pad_val=dict(img=(1, 2, 3))),
    dict(size=(20, 80), pad_val=dict(seg=3)),
    dict(size_divisor=32, pad_val=dict(img=(114.0, 115.0, 116.0))),
    dict(pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(pad_to_square=True, size_divisor=50),
]


@pytest.mark.parametrize('options', PADS, ids=str)
@pytest.mark.parametrize('shape', [(40, 61), (61, 40)])
def test_pads_as_mmcv_does(options, shape):
    transforms = pytest.importorskip('mmcv.transforms')
    image = photograph(0)[: shape[0], : shape[1]]
    expected = transforms.Pad(**options)(dict(img=image[..., ::-1].copy()))['img'][..., ::-1]
    found = apply_steps(image, steps_of([dict(type='Pad', **options)]))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    'name', ['rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'yolox/yolox_s_8xb8-300e_coco.py']
)
@pytest.mark.parametrize('size', [(97, 131), (300, 200)])
def test_stock_letterboxes(name, size, tmp_path):
    """Pipelines of mmdet's configs that scale to fit a square and pad it."""
    mmdet = pytest.importorskip('mmdet')
    from mmengine.dataset import Compose
    from mmengine.registry import init_default_scope

    folder = Path(mmdet.__file__).parent / '.mim' / 'configs'
    if not folder.is_dir():
        pytest.skip('mmdet has been installed without its configs')
    cfg = Config.fromfile(folder / name)
    path = tmp_path / 'image.png'
    Image.fromarray(photograph(1)).crop((0, 0, *size[::-1])).save(path)
    assert len(class_names(cfg)) == 80
    init_default_scope('mmdet')
    pipeline = [
        step for step in cfg.test_dataloader.dataset.pipeline if step['type'] != 'LoadAnnotations'
    ]
    expected = Compose(pipeline)(dict(img_path=str(path), img_id=0))['inputs']
    found = apply_steps(read_image(path), preprocessing_of(cfg).steps)
    assert found.shape[0] == found.shape[1]
    np.testing.assert_array_equal(found.transpose(2, 0, 1)[::-1], expected.numpy())


@pytest.mark.parametrize(
    ('config', 'most', 'border'),
    [('bidet-faster-rcnn_r18-c4_8xb4-50e', None, 1), ('bidet-ssd300_2xb16-300k', 200, None)],
)
def test_bidets_detectors(config, most, border):
    pytest.importorskip('mmdet')
    from mmdet.registry import TASK_UTILS

    cfg = load_config(ROOT / 'configs' / 'bidet' / f'{config}_voc0712.py')
    assert detection_decoding(cfg).max_per_class == most
    head = (cfg.model.get('roi_head') or cfg.model).bbox_head
    assert box_border(detector_with(TASK_UTILS.build(head.bbox_coder))) == border


def detector_with(coder):
    return SimpleNamespace(bbox_head=SimpleNamespace(bbox_coder=coder))


def test_where_boxes_end_is_what_the_built_coder_does():
    coders = pytest.importorskip('mmdet.models.task_modules.coders')

    class Wide(coders.DistancePointBBoxCoder):
        def __init__(self):
            super().__init__(clip_border=False)

    class First(coders.LegacyDeltaXYWHBBoxCoder):
        pass

    assert box_border(detector_with(coders.DistancePointBBoxCoder())) == 0
    assert box_border(detector_with(Wide())) is None
    assert box_border(detector_with(First())) == 1
    two_stages = SimpleNamespace(roi_head=detector_with(Wide()))
    assert box_border(two_stages) is None


def test_diffusion_pipelines():
    diffusers = pytest.importorskip('diffusers')
    from mmesbnn.diffusion import BIDiffSRUNet, SRDiffusionPipeline

    unet = BIDiffSRUNet(base_channels=16, num_levels=2, blocks_per_level=1)
    pipeline = SRDiffusionPipeline(unet, scale=4)
    decoding = sampling_decoding(pipeline, 20)
    assert (decoding.scale, decoding.multiple) == (4, unet.size_factor)
    assert len(decoding.scheduler.alphas_cumprod) == 2000
    assert decoding.scheduler.num_inference_steps == 20
    pipeline.scheduler = diffusers.EulerDiscreteScheduler()
    with pytest.raises(ExportError, match='scheduler=EulerDiscreteScheduler'):
        sampling_decoding(pipeline)
