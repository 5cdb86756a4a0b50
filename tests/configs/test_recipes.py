"""Every published recipe builds, and trains on data in the genuine format."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmesbnn.models.classifiers import student_config
from tests.real_data import write_cifar, write_imagenet

ModelHub = pytest.importorskip('mmpretrain').apis.ModelHub

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
#: The classifiers; other tasks have separate tests.
RECIPES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for pattern in ('es_bnext*.py', 'bnext/*.py', 'binary_vit/*.py', 'reactnet/*.py')
    for path in CONFIGS.glob(pattern)
)
#: Without recipes that differ from ReActNet-18's only in a flag of the backbone.
IMAGENET = [name for name in RECIPES if 'cifar' not in name and 'birealnet-18_stage' not in name]
#: 64 pixels are fast, and enough to run every layer.
CROP = 64
#: With the four keys that 64 pixels leave, all attention probabilities may exceed the
#: clip, and then no gradient reaches queries and keys.
MAY_STAND_STILL = ('query', 'key')


def shrink(cfg, root, work_dir):
    """Keep the recipe, but read few small images from ``root``."""
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(root)
        for transform in loader.dataset.pipeline:
            if transform.type == 'RandomResizedCrop':
                transform.scale = CROP
            elif transform.type == 'CenterCrop':
                transform.crop_size = CROP
    if 'teachers' in cfg.model:
        teachers = cfg.model.teachers
        for teacher in [*teachers.get('assistants', []), teachers.main]:
            # the same network with random weights: nothing is downloaded in a test
            teacher.model = ModelHub.get(teacher.model).config.model
            teacher.pop('checkpoint', None)
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint.update(interval=-1, save_best=None)
    cfg.default_hooks.logger.interval = 1
    cfg.work_dir = str(work_dir)
    if cfg.get('load_from'):  # weights of the previous stage: same names, same shapes
        work_dir.mkdir(parents=True)
        cfg.load_from = str(work_dir / 'start.pth')
        torch.save(MODELS.build(student_config(cfg.model)).state_dict(), cfg.load_from)
    return cfg


def train(name, root, work_dir):
    cfg = shrink(Config.fromfile(CONFIGS / name), root, work_dir)
    runner = Runner.from_cfg(cfg)
    before = {k: v.clone() for k, v in runner.model.named_parameters()}
    runner.train()
    return runner, before


def check_trained(runner, before):
    history = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(history) == 2
    assert all(torch.isfinite(torch.tensor(history)))
    still = [
        name
        for name, value in runner.model.named_parameters()
        if torch.equal(value, before[name]) and not any(part in name for part in MAY_STAND_STILL)
    ]
    assert not still


@pytest.mark.slow
@pytest.mark.parametrize('name', IMAGENET)
def test_imagenet_recipe_trains(name, tmp_path):
    root = write_imagenet(tmp_path / 'imagenet')
    runner, before = train(name, root, tmp_path / 'work')
    check_trained(runner, before)
    assert 'val/accuracy/top5' in runner.message_hub.log_scalars
    assert 0 <= runner.message_hub.get_scalar('val/accuracy/top5').current() <= 100


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in RECIPES if 'cifar' in name])
def test_cifar_recipe_trains(name, tmp_path, monkeypatch):
    from mmpretrain.datasets import CIFAR10, CIFAR100

    dataset = CIFAR100 if 'cifar100' in name else CIFAR10
    # two iterations in all: the class has five training files
    monkeypatch.setattr(dataset, 'train_list', dataset.train_list[:1])
    root = write_cifar(tmp_path / 'cifar', dataset, monkeypatch)
    runner, before = train(name, root, tmp_path / 'work')
    check_trained(runner, before)


def test_every_size_is_there_as_baseline_and_es():
    for arch in ('tiny', 'small', 'middle', 'large', '18'):
        models = [
            Config.fromfile(CONFIGS / name).model
            for name in RECIPES
            if f'bnext-{arch}_' in name or (arch == 'tiny' and '/' not in name)
        ]
        taus = {model.backbone.get('tau', 1) for model in models}
        assert {model.backbone.arch for model in models} == {arch}
        assert taus == {1, 2}
