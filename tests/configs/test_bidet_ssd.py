"""The SSD300 recipes have the published values and train on a small real devkit."""

import re
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from mmesbnn.analysis import build_model, check_binary, count_ops, load_config
from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.conversion import convert_file
from mmesbnn.datasets import VOC_CLASSES, write_mini_voc
from mmesbnn.models.losses import FeatureEnergyLoss
from tests.reference.published_bidet_ssd import Network, random_state

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
BASELINE = 'bidet/bidet-ssd300_2xb16-300k_voc0712.py'
RECIPES = [BASELINE, 'es_bidet/es-bidet-ssd300_2xb16-300k_voc0712.py']

#: A 16th of the widths, the same layers.
ARCH = dict(channels=[4, 4, 8, 16, 32, 32, 64], depths=[1, 3, 4, 4, 4])
WIDTHS = (32, 64, 32, 16, 16, 16)


@pytest.fixture(scope='module')
def devkit(tmp_path_factory):
    """Write digits with the names of VOC's first ten classes."""
    root = tmp_path_factory.mktemp('data') / 'VOCdevkit'
    write_mini_voc(root, names=VOC_CLASSES[:10], counts=(3, 3, 2))
    return root


def narrow(name, devkit, work_dir, iterations=3, begin=1):
    """Return the recipe with few channels and images."""
    cfg = Config.fromfile(CONFIGS / name)
    cfg.model.backbone.update(arch=ARCH, init_cfg=None)
    cfg.model.neck.update(in_channels=WIDTHS[:2], out_channels=WIDTHS)
    cfg.model.bbox_head.update(in_channels=WIDTHS)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        for dataset in loader.dataset.get('datasets', [loader.dataset]):
            dataset.data_root = str(devkit)
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    cfg.default_hooks.checkpoint.update(interval=iterations)
    cfg.default_hooks.logger.interval = 1
    (bottleneck,) = (h for h in cfg.custom_hooks if h.type == 'BottleneckHook')
    bottleneck.begin = begin
    cfg.work_dir = str(work_dir)
    return cfg


def logged(runner, name):
    return list(runner.message_hub.get_scalar(f'train/{name}').data[0])


# the recipe ---------------------------------------------------------------------------


@pytest.mark.parametrize('name', RECIPES)
def test_the_recipe_is_the_published_one(name):
    cfg = Config.fromfile(CONFIGS / name)
    assert cfg.optim_wrapper.optimizer == dict(type='Adam', lr=1e-3, weight_decay=0.0, fused=True)
    assert cfg.optim_wrapper.get('clip_grad') is None
    (schedule,) = cfg.param_scheduler
    assert (schedule.milestones, schedule.gamma) == ([30_000, 80_000, 200_000], 0.1)
    assert cfg.train_cfg.max_iters == 300_000
    assert 2 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 32
    (hook,) = (h for h in cfg.custom_hooks if h.type == 'BottleneckHook')
    assert (hook.begin, hook.by_epoch) == (30_000, False)
    assert cfg.randomness.seed == 1
    years = [d.ann_file for d in cfg.train_dataloader.dataset.datasets]
    assert years == [f'VOC{y}/ImageSets/Main/trainval.txt' for y in (2007, 2012)]
    assert cfg.test_dataloader.dataset.ann_file == 'VOC2007/ImageSets/Main/test.txt'
    assert {metric.eval_mode for metric in cfg.test_evaluator} == {'11points', 'area'}
    names = [t.type for t in cfg.train_dataloader.dataset.datasets[0].pipeline]
    assert names == [
        'LoadImageFromFile',
        'LoadAnnotations',
        'PhotoMetricDistortion',
        'Expand',
        'MinIoURandomCrop',
        'RandomFlip',
        'Resize',
        'PackDetInputs',
    ]


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES)
def test_operations_are_the_published_ones(name):
    model = build_model(load_config(CONFIGS / name))
    report = count_ops(model, (3, 300, 300))
    assert report.total['fp_macs'] == pytest.approx(2.630e9, rel=0.001)
    assert report.total['bops'] == pytest.approx(40.49e9, rel=0.001)
    assert report.total['ops'] == pytest.approx(3.263e9, rel=0.001)
    assert report.total['binary_params'] == 27_340_800
    assert report.table().startswith('input 1 x 3 x 300 x 300')
    real = {layer.why for layer in report.layers if layer.kind != 'binary'}
    assert real == {
        'first layer, reads the input',
        'projection shortcut',
        'not a binary layer: Conv2d',  # fc7
        'last layer, gives the output',
    }


@pytest.mark.parametrize('name', RECIPES)
def test_the_metafile_has_the_measured_numbers(name):
    entries = load((CONFIGS / name).with_name('metafile.yml'))['Models']
    (entry,) = (e for e in entries if e['Config'] == f'configs/{name}')
    with torch.device('meta'):
        model = build_model(load_config(CONFIGS / name))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert entry['Metadata'] == dict(FLOPs=3_262_865_408, Parameters=count)


@pytest.mark.parametrize('tau', [1, 2])
def test_its_classifier_has_the_weights_that_it_begins_with(tau):
    name = RECIPES[tau - 1].replace('ssd300_2xb16-300k_voc0712', 'vgg16_8xb64_in1k')
    cfg = Config.fromfile(CONFIGS / name)
    detector = Config.fromfile(CONFIGS / RECIPES[tau - 1]).model.backbone
    assert detector.pop('init_cfg').prefix == 'backbone.'
    with torch.device('meta'):
        classifier = MODELS.build(cfg.model.backbone)
        backbone = MODELS.build(detector)
    assert classifier.out_channels == [cfg.model.head.in_channels]
    ours, theirs = ({k: v.shape for k, v in m.state_dict().items()} for m in (backbone, classifier))
    assert ours == theirs


@pytest.mark.slow
def test_the_es_classifier_trains(tmp_path):
    pytest.importorskip('mmpretrain')
    from tests.configs.test_recipes import check_trained, train
    from tests.real_data import write_imagenet

    root = write_imagenet(tmp_path / 'imagenet')
    name = 'es_bidet/es-bidet-vgg16_8xb64_in1k.py'
    check_trained(*train(name, root, tmp_path / 'work'))


def test_it_begins_with_the_published_classifier(tmp_path, no_runners):
    net = Network(widths=tuple(ARCH['channels'][:-1]), tail=ARCH['channels'][-1])
    published = {k: v.float() for k, v in random_state(net, base_only=True).items()}
    torch.save(published, tmp_path / 'vgg16.pth')
    convert_file(tmp_path / 'vgg16.pth', tmp_path / 'converted.pth')
    cfg = narrow(BASELINE, tmp_path, tmp_path).model
    cfg.backbone.init_cfg = Config.fromfile(CONFIGS / BASELINE).model.backbone.init_cfg
    cfg.backbone.init_cfg.checkpoint = str(tmp_path / 'converted.pth')
    init_default_scope('mmdet')
    model = MODELS.build(cfg)
    model.init_weights()
    for ours, theirs in zip(model.backbone.state_dict().values(), published.values(), strict=True):
        assert torch.equal(ours, theirs)


# training -----------------------------------------------------------------------------


def test_an_object_without_area_has_no_loss(tmp_path):
    """Data sets of mmdet keep such boxes; ``CheckedVOCDataset`` ignores them."""
    cfg = narrow(BASELINE, tmp_path, tmp_path).model
    from mmdet.structures import DetDataSample

    init_default_scope('mmdet')
    head = MODELS.build(dict(cfg.bbox_head, train_cfg=cfg.train_cfg, test_cfg=cfg.test_cfg))
    maps = [torch.rand(1, width, n, n) for width, n in zip(WIDTHS, (38, 19, 10, 5, 3, 1))]
    box, line = [10.0, 10.0, 100.0, 90.0], [50.0, 60.0, 50.0, 80.0]

    def loss_bbox(*boxes):
        gt = InstanceData(bboxes=torch.tensor(boxes), labels=torch.zeros(len(boxes)).long())
        size = dict(img_shape=(300, 300), pad_shape=(300, 300))
        return sum(head.loss(maps, [DetDataSample(metainfo=size, gt_instances=gt)])['loss_bbox'])

    assert 0 < loss_bbox(box) == loss_bbox(box, line)


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES)
def test_it_trains_and_tests_on_a_devkit(name, devkit, tmp_path):
    runner = Runner.from_cfg(narrow(name, devkit, tmp_path))
    before = {k: v.clone() for k, v in runner.model.named_parameters()}
    runner.train()
    history = {key: logged(runner, f'loss_{key}') for key in ('cls', 'bbox', 'reg', 'prior')}
    assert all(len(values) == 3 for values in history.values())
    assert torch.tensor(list(history.values())).isfinite().all()
    for key in ('reg', 'prior'):
        assert history[key][0] == 0
        assert min(history[key][1:]) > 0
    still = [k for k, v in runner.model.named_parameters() if torch.equal(v, before[k])]
    # a bias before a norm
    assert set(still) <= {'backbone.stages.5.0.pointwise.bias'}
    for prefix in ('pascal_voc', 'pascal_voc_area'):
        assert 0 <= runner.message_hub.get_scalar(f'val/{prefix}/mAP').current() <= 1
    batch = next(iter(runner.test_dataloader))
    assert check_binary(runner.model, batch) == []


@pytest.mark.slow
def test_a_training_resumed_after_the_step_has_the_terms(devkit, tmp_path):
    Runner.from_cfg(narrow(BASELINE, devkit, tmp_path, iterations=2)).train()
    cfg = narrow(BASELINE, devkit, tmp_path, iterations=3)
    cfg.load_from, cfg.resume = str(tmp_path / 'iter_2.pth'), True
    runner = Runner.from_cfg(cfg)
    runner.train()
    for key in ('reg', 'prior'):
        assert logged(runner, f'loss_{key}')[-1] > 0
    terms = [m for m in runner.model.modules() if isinstance(m, FeatureEnergyLoss)]
    assert [term.active for term in terms] == [True]


def tensors(value, name=''):
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(child, f'{name}.{key}')


def test_a_resumed_training_is_the_uninterrupted_one(devkit, tmp_path):
    def train(folder, iterations, workers, resume=False):
        cfg = narrow(BASELINE, devkit, tmp_path / folder, iterations=iterations)
        cfg.train_cfg.val_interval = 100
        cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        cfg.default_hooks.checkpoint.save_best = None
        cfg.resume = resume
        torch.manual_seed(iterations + workers)
        runner = Runner.from_cfg(cfg)
        runner.train()
        return logged(runner, 'loss'), read_checkpoint(tmp_path / folder / f'iter_{iterations}.pth')

    losses, whole = train('whole', 4, workers=0)
    train('parts', 2, workers=2)
    again, parts = train('parts', 4, workers=1, resume=True)
    assert again == losses and len(set(losses)) == 4
    expected, got = (dict(tensors(content)) for content in (whole, parts))
    assert any(name.startswith('.optimizer') for name in expected)
    assert expected.keys() == got.keys()
    assert not [name for name in expected if not torch.equal(expected[name], got[name])]


@pytest.mark.slow
def test_detections_of_an_image_file(devkit, tmp_path):
    from mmdet.apis import DetInferencer

    cfg = narrow(BASELINE, devkit, tmp_path)
    cfg.model.test_cfg.max_per_img = 5
    cfg.dump(tmp_path / 'config.py')
    init_default_scope('mmdet')
    torch.save(dict(state_dict=build_model(cfg).state_dict(), meta={}), tmp_path / 'w.pth')
    inferencer = DetInferencer(str(tmp_path / 'config.py'), str(tmp_path / 'w.pth'), device='cpu')
    image = next((devkit / 'VOC2007' / 'JPEGImages').iterdir())
    (found,) = inferencer(str(image), no_save_vis=True)['predictions']
    assert len(found['scores']) == len(found['bboxes']) == 5
    assert set(found['labels']) <= set(range(20))


# odd data -------------------------------------------------------------------------


OBJECT = """
<object><name>bird</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin>
<ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>
"""


def replace_objects(path, *boxes, difficult=0):
    """Replace the objects of an image's annotation."""
    text = path.read_text()
    first = text.index('<object>')
    last = text.rindex('</object>') + len('</object>')
    new = ''.join(OBJECT.format(*box, difficult=difficult) for box in boxes)
    path.write_text(text[:first] + new + text[last:])


@pytest.fixture
def odd_devkit(devkit, tmp_path):
    """Write a devkit in which every training image is unusual."""
    root = shutil.copytree(devkit, tmp_path / 'VOCdevkit')
    paths = []
    for year in ('VOC2007', 'VOC2012'):
        listed = (root / year / 'ImageSets/Main/trainval.txt').read_text().split()
        paths += [root / year / 'Annotations' / f'{i}.xml' for i in listed]
    replace_objects(paths[0])
    replace_objects(paths[1], (200, 150, 400, 300))  # partly outside
    replace_objects(paths[2], (50, 50, 50, 50), (20, 20, 100, 100))  # one pixel
    replace_objects(paths[3], (30, 30, 90, 90), difficult=1)
    replace_objects(paths[4], (1, 1, 256, 192))  # the whole image
    replace_objects(paths[5], (10, 10, 11, 12))  # almost nothing of the image
    return root


@pytest.mark.slow
def test_odd_annotations_train(odd_devkit, tmp_path):
    cfg = narrow(BASELINE, odd_devkit, tmp_path, iterations=4, begin=0)
    for dataset in cfg.train_dataloader.dataset.datasets:
        dataset.filter_cfg.filter_empty_gt = False
    runner = Runner.from_cfg(cfg)
    runner.train()
    history = logged(runner, 'loss')
    assert len(history) == 4
    assert torch.tensor(history).isfinite().all()


@pytest.mark.slow
def test_losses_that_are_no_numbers_stop_the_training(devkit, tmp_path):
    cfg = narrow(BASELINE, devkit, tmp_path, iterations=4)
    cfg.optim_wrapper.optimizer.lr = 1e30
    cfg.default_hooks.checkpoint.interval = 1
    (guard,) = (h for h in cfg.custom_hooks if h.type == 'NaNGuardHook')
    guard.interval = 1
    expected = (
        r'iteration 1: the loss became (nan|inf) .*loss_\w+=(nan|inf).*'
        rf'Last checkpoint before it: {re.escape(str(tmp_path))}/iter_1\.pth'
    )
    with pytest.raises(FloatingPointError, match=expected):
        Runner.from_cfg(cfg).train()


def test_a_batch_of_one_is_refused_in_words_of_the_config(devkit, tmp_path):
    cfg = narrow(BASELINE, devkit, tmp_path)
    cfg.train_dataloader.batch_size = 1
    with pytest.raises(ValueError, match=r'batch_size=1: .* at least 2'):
        Runner.from_cfg(cfg).train()


def test_missing_pretrained_weights_are_named(devkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = narrow(BASELINE, devkit, tmp_path)
    cfg.model.backbone.init_cfg = Config.fromfile(CONFIGS / BASELINE).model.backbone.init_cfg
    with pytest.raises(FileNotFoundError, match=r'checkpoints/bidet-vgg16\.pth'):
        Runner.from_cfg(cfg).train()
