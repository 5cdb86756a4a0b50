"""The fine-tuning recipe takes a trained file, and the network stays binary."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from PIL import Image

from mmesbnn.engine.hooks.temperature import binary_share
from mmesbnn.engine.reach import temperature_weights

pytest.importorskip('mmpretrain')
CONFIG = Path(__file__).resolve().parents[2] / 'configs/finetune/es-bnext-tiny_finetune_folders.py'


def write_folders(root, classes=2, count=2):
    for split in ('train', 'val'):
        for label in range(classes):
            folder = root / split / f'class_{label}'
            folder.mkdir(parents=True)
            for i in range(count):
                color = (90 * label + 20 * i, 40 * i, 60)
                Image.new('RGB', (40, 36), color).save(folder / f'{i}.png')


@pytest.fixture
def cfg(tmp_path, no_runners):
    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmpretrain')
    cfg.model.backbone.update(arch=dict(channels=[16, 32, 32]), stem_stride=1)
    cfg.model.head.in_channels = 32
    trained = MODELS.build(
        {**cfg.model, 'head': {**cfg.model.head, 'num_classes': 1000, 'topk': 1}}
    )
    for weight in temperature_weights(trained):
        weight.temperature.fill_(6.7e-10)
    cfg.load_from = str(tmp_path / 'trained.pth')
    torch.save({'state_dict': trained.state_dict()}, cfg.load_from)
    cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = 2
    write_folders(tmp_path / 'data')
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(tmp_path / 'data')
        for transform in loader.dataset.pipeline:
            for key in ('scale', 'crop_size'):
                if key in transform:
                    transform[key] = 32
    cfg.train_cfg.max_epochs = 1
    cfg.work_dir = str(tmp_path / 'work')
    return cfg, trained


def test_the_trained_network_stays_binary(cfg):
    cfg, trained = cfg
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert binary_share(runner.model) == 1
    found = {w.temperature.item() for w in temperature_weights(runner.model)}
    assert max(found) < 1e-7
    # the weights equal the file's up to a few small steps
    key = 'backbone.stages.0.0.spatial.conv.weight'
    ours, theirs = runner.model.state_dict()[key], trained.state_dict()[key]
    assert (ours - theirs).abs().max() < 1e-3
    assert not torch.equal(ours, theirs)
    rates = {group['initial_lr'] for group in runner.optim_wrapper.param_groups}
    assert sorted(rates) == pytest.approx([1e-5, 1e-4])


def test_it_does_not_begin_from_another_network(cfg):
    cfg, _ = cfg
    cfg.model.backbone.tau = 1
    with pytest.raises((RuntimeError, ValueError), match='checkpoint'):
        Runner.from_cfg(cfg).train()
