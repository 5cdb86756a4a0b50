"""Recipes of BiDet's Faster R-CNN and of BNext detectors train on a small devkit."""

from pathlib import Path

import pytest
import torch

pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

from mmengine.config import Config
from mmengine.fileio import load
from mmengine.runner import Runner

from mmesbnn.analysis import (
    build_model,
    check_binary,
    count_ops,
    load_config,
    measure_capacity,
    most_regions,
    real_batch,
)
from mmesbnn.conversion.bidet_faster_rcnn import Layout, detector_cfg
from mmesbnn.datasets import VOC_CLASSES, write_mini_voc
from tests.analysis.digits import run_tool

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
BIDET = [
    'bidet/bidet-faster-rcnn_r18-c4_8xb4-50e_voc0712.py',
    'es_bidet/es-bidet-faster-rcnn_r18-c4_8xb4-50e_voc0712.py',
]
BNEXT = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob('bnext_det/*.py'))
#: Levels of the pyramid that no box of the small images belongs to.
MAY_STAND_STILL = ('bbox_head.scales.',)


@pytest.fixture(scope='module')
def devkit(tmp_path_factory):
    """Write digits with the names of VOC's first ten classes."""
    root = tmp_path_factory.mktemp('data') / 'VOCdevkit'
    write_mini_voc(root, size=(96, 64), names=VOC_CLASSES[:10], counts=(2, 2, 2), objects=(1, 2))
    return root


def walk(node):
    """Yield every dict in a config."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from walk(child)


def narrow_bidet(model):
    tau = model.backbone.get('tau', 1)
    model.backbone.update(widths=(8, 8, 8, 16), depths=(2, 1, 1), frozen_stages=-1)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    # anchors of 600-pixel images are larger than these
    model.rpn_head.anchor_generator.scales = [1, 2, 4]
    model.roi_head.shared_head.update(in_channels=16, out_channels=16, depth=2)
    model.roi_head.bbox_roi_extractor.out_channels = 16 * tau
    model.roi_head.bbox_head.in_channels = 16


def narrow_bnext(model):
    model.backbone.update(
        arch=dict(channels=[16, 16, 16, 32, 32], depths=[1, 1, 1, 1]),
        out_indices=(0, 1, 2, 3),
        stem_stride=4,
    )
    model.neck.update(in_channels=[16, 16, 32, 32], out_channels=16)
    if 'bbox_head' in model:
        model.bbox_head.update(in_channels=16, feat_channels=16)
        return
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.roi_head.bbox_roi_extractor.out_channels = 16
    model.roi_head.bbox_head.update(in_channels=16, conv_out_channels=16)
    model.train_cfg.rcnn.sampler.num = 32
    model.train_cfg.rpn_proposal.max_per_img = 100


def narrow(name, devkit, work_dir, epochs=2, begin=1):
    """Return the recipe with few channels and images, without pretrained weights."""
    cfg = Config.fromfile(CONFIGS / name)
    for node in walk(cfg._cfg_dict):
        init = node.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            node['init_cfg'] = None
        if node.get('type') == 'Resize':
            node['scale'] = (96, 64)
        if 'data_root' in node:
            node['data_root'] = str(devkit)
    (narrow_bidet if 'bidet' in name else narrow_bnext)(cfg.model)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.default_hooks.checkpoint.update(interval=epochs, save_best=None)
    cfg.default_hooks.logger.interval = 1
    for hook in cfg.custom_hooks:
        if hook.type == 'BottleneckHook':
            hook.begin = begin
        elif hook.type == 'TemperatureHook':
            hook.binary_from = 1
    for schedule in cfg.param_scheduler:
        if schedule.type == 'LinearLR':
            schedule.end = 2
    cfg.work_dir = str(work_dir)
    return cfg


def logged(runner, name):
    return list(runner.message_hub.get_scalar(f'train/{name}').data[0])


def train(cfg):
    runner = Runner.from_cfg(cfg)
    before = {k: v.clone() for k, v in runner.model.named_parameters()}
    runner.train()
    still = [k for k, v in runner.model.named_parameters() if torch.equal(v, before[k])]
    return runner, [k for k in still if not k.startswith(MAY_STAND_STILL)]


# recipes ------------------------------------------------------------------------------


@pytest.mark.parametrize('name', BIDET)
def test_the_bidet_recipe_is_what_the_readme_says(name):
    cfg = Config.fromfile(CONFIGS / name)
    assert cfg.optim_wrapper.optimizer == dict(type='Adam', lr=1e-3, weight_decay=0.0, fused=True)
    (schedule,) = cfg.param_scheduler
    assert (schedule.milestones, schedule.gamma) == ([12, 24, 36, 48], 0.1)
    assert cfg.train_cfg.max_epochs == 50
    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size
    (hook,) = (h for h in cfg.custom_hooks if h.type == 'BottleneckHook')
    assert hook.begin == 12
    rpn, box = cfg.model.rpn_head, cfg.model.roi_head.bbox_head
    assert [rpn.loss_prior.loss_weight, rpn.loss_reg.loss_weight] == [0.01, 0.5]
    assert [box.loss_prior.loss_weight, box.loss_reg.loss_weight] == [0.05, 0.02]
    datasets = cfg.train_dataloader.dataset.datasets
    assert [d.ann_file[:7] for d in datasets] == ['VOC2007', 'VOC2012']
    assert all(d.use_difficult for d in datasets)
    assert {metric.eval_mode for metric in cfg.test_evaluator} == {'11points', 'area'}


def test_converted_files_fit_the_recipe():
    """The converter's model has the recipe's shapes, test settings and anchors."""
    widths, depths = (64, 64, 128, 256, 512), (4, 4, 4, 4)
    converted = detector_cfg(Layout(widths, depths, 20, 9, 512), -1)
    recipe = load_config(CONFIGS / BIDET[0])
    ours = build_model(Config(dict(model=converted, default_scope='mmdet')))
    theirs = build_model(recipe)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    for key in ('rpn', 'rcnn'):
        assert converted['test_cfg'][key] == recipe.model.test_cfg[key].to_dict()
    anchors = [m.rpn_head.prior_generator.base_anchors[0] for m in (ours, theirs)]
    assert torch.equal(*anchors)


@pytest.mark.slow
@pytest.mark.parametrize('name', BIDET)
def test_operations_at_600x1000_and_300_regions(name):
    model = build_model(load_config(CONFIGS / name))
    regions, arguments = most_regions(model, (3, 600, 1000))
    report = count_ops(model, (3, 600, 1000), **arguments)
    assert regions == 300
    (scores,) = (x for x in report.layers if x.name == 'roi_head.bbox_head.fc_cls')
    assert scores.output_shape == [300, 21]
    # published: two scores per anchor where one does
    second_score = 38 * 63 * 9 * 512
    assert report.total['fp_macs'] + second_score == pytest.approx(2.31e9, rel=1e-3)
    assert report.total['bops'] == pytest.approx(57.8e9, rel=1e-3)
    assert report.total['binary_params'] == 12_165_120
    assert report.table().startswith('input 1 x 3 x 600 x 1000')


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['fcos', 'retinanet', 'faster-rcnn'])
def test_es_costs_what_its_baseline_does(kind):
    totals = []
    for name in (name for name in BNEXT if f'/{kind}_' in name):
        model = build_model(load_config(CONFIGS / name))
        _, arguments = most_regions(model, (3, 128, 128))
        totals.append(count_ops(model, (3, 128, 128), **arguments).total)
    assert len(totals) == 2
    for key in ('fp_macs', 'bops', 'binary_params'):
        assert totals[0][key] == totals[1][key]


@pytest.mark.parametrize('family', ['bidet', 'es_bidet', 'bnext_det'])
def test_metafiles_say_what_the_networks_have(family):
    for entry in load(CONFIGS / family / 'metafile.yml')['Models']:
        with torch.device('meta'):
            model = build_model(load_config(CONFIGS.parent / entry['Config']))
        count = sum(parameter.numel() for parameter in model.parameters())
        assert entry['Metadata']['Parameters'] == count


@pytest.mark.parametrize(
    ('classifier', 'detector'),
    [
        ('bidet/bidet-resnet18_8xb64_in1k.py', BIDET[0]),
        ('es_bidet/es-bidet-resnet18_8xb64_in1k.py', BIDET[1]),
    ],
)
def test_classifiers_have_the_weights_that_detectors_begin_with(classifier, detector):
    pytest.importorskip('mmpretrain')
    with torch.device('meta'):
        source = build_model(load_config(CONFIGS / classifier)).backbone.state_dict()
        cfg = load_config(CONFIGS / detector)
        model = build_model(cfg)
    assert cfg.model.backbone.init_cfg.prefix == 'backbone.'
    prefix = cfg.model.roi_head.shared_head.init_cfg.prefix.removeprefix('backbone.')
    wanted = dict(model.backbone.state_dict())
    for key, value in model.roi_head.shared_head.state_dict().items():
        wanted[prefix + key] = value
    assert wanted.keys() == source.keys()
    assert all(wanted[key].shape == value.shape for key, value in source.items())


# training -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_classifier_trains(tmp_path):
    pytest.importorskip('mmpretrain')
    from tests.configs import test_recipes
    from tests.real_data import write_imagenet

    root = write_imagenet(tmp_path / 'imagenet')
    name = 'es_bidet/es-bidet-resnet18_8xb64_in1k.py'
    test_recipes.check_trained(*test_recipes.train(name, root, tmp_path / 'work'))


@pytest.mark.slow
@pytest.mark.parametrize('name', BIDET)
def test_bidet_trains_and_tests_on_a_devkit(name, devkit, tmp_path):
    runner, still = train(narrow(name, devkit, tmp_path))
    assert not still
    for stage in ('rpn', 'head'):
        for term in ('reg', 'prior'):
            history = logged(runner, f'loss_{stage}_{term}')
            assert history[:2] == [0, 0]
            assert torch.tensor(history).isfinite().all()
        assert min(logged(runner, f'loss_{stage}_reg')[2:]) > 0
    assert max(logged(runner, 'loss_rpn_prior')[2:]) > 0
    for prefix in ('pascal_voc', 'pascal_voc_area'):
        assert 0 <= runner.message_hub.get_scalar(f'val/{prefix}/mAP').current() <= 1
    batch = next(iter(runner.test_dataloader))
    assert check_binary(runner.model, batch) == []


@pytest.mark.slow
@pytest.mark.parametrize('name', BNEXT)
def test_bnext_detector_trains_and_tests_on_a_devkit(name, devkit, tmp_path):
    runner, still = train(narrow(name, devkit, tmp_path))
    assert not still
    assert torch.tensor(logged(runner, 'loss')).isfinite().all()
    assert 0 <= runner.message_hub.get_scalar('val/pascal_voc/mAP').current() <= 1
    batch = next(iter(runner.test_dataloader))
    assert check_binary(runner.model, batch) == []


@pytest.mark.slow
def test_a_batch_of_one(devkit, tmp_path):
    cfg = narrow(BIDET[1], devkit, tmp_path, epochs=1, begin=0)
    cfg.train_dataloader.batch_size = cfg.val_dataloader.batch_size = 1
    runner, _ = train(cfg)
    assert len(logged(runner, 'loss')) == 4
    assert torch.tensor(logged(runner, 'loss')).isfinite().all()


@pytest.mark.slow
def test_detections_of_an_image_file(devkit, tmp_path):
    from mmdet.apis import DetInferencer

    cfg = narrow(BIDET[1], devkit, tmp_path, epochs=1)
    train(cfg)
    cfg.dump(tmp_path / 'config.py')
    inferencer = DetInferencer(
        str(tmp_path / 'config.py'),
        weights=str(tmp_path / 'epoch_1.pth'),
        device='cpu',
        show_progress=False,
    )
    image = devkit / 'VOC2007/JPEGImages/000003.jpg'
    (found,) = inferencer(str(image))['predictions']
    assert 0 < len(found['bboxes']) == len(found['labels']) <= 100
    assert set(found['labels']) <= set(range(20))
    boxes = torch.tensor(found['bboxes'])
    assert boxes.min() >= 0
    assert (boxes.amax(0) <= torch.tensor([96, 64, 96, 64])).all()


@pytest.mark.slow
def test_images_without_objects_train(devkit, tmp_path):
    cfg = narrow(BIDET[0], devkit, tmp_path, epochs=1, begin=0)
    for dataset in cfg.train_dataloader.dataset.datasets:
        dataset.filter_cfg.filter_empty_gt = False
        dataset.metainfo = dict(classes=VOC_CLASSES[5:])
    for split in ('val', 'test'):
        cfg[f'{split}_dataloader'].dataset.metainfo = dict(classes=VOC_CLASSES[5:])
    cfg.model.roi_head.bbox_head.num_classes = 15
    runner, _ = train(cfg)
    counts = [len(runner.train_dataloader.dataset.get_data_info(i)['instances']) for i in range(4)]
    assert min(counts) == 0
    assert torch.tensor(logged(runner, 'loss')).isfinite().all()


@pytest.mark.slow
def test_capacity_is_measured_on_the_regions_of_a_test(devkit, tmp_path, monkeypatch, capsys):
    """The second stage reads fewer regions than the largest number, which are counted."""
    config, weights, counts = tmp_path / 'c.py', tmp_path / 'w.pth', tmp_path / 'ops.json'
    narrow(BIDET[0], devkit, tmp_path).dump(config)
    cfg = load_config(config)
    model = build_model(cfg)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, weights)
    options = ('--images', 1, '--weights', weights, '--json', counts)
    assert run_tool('count_ops.py', config, *options, monkeypatch=monkeypatch) == 0
    batch = real_batch(cfg, 1)
    found = {x.name: x.rank for x in measure_capacity(model, lambda: model.test_step(batch))}
    layers = {layer['name']: layer['rank'] for layer in load(counts)['layers']}
    name = next(name for name in found if name.startswith('roi_head'))
    assert layers[name] == pytest.approx(found[name])


@pytest.mark.slow
def test_nan_losses_name_iteration_and_checkpoint(devkit, tmp_path):
    cfg = narrow(BIDET[0], devkit, tmp_path, epochs=2)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.optim_wrapper.optimizer.lr = 1e30
    cfg.param_scheduler = []
    with pytest.raises(FloatingPointError, match=r'iteration \d+'):
        train(cfg)
