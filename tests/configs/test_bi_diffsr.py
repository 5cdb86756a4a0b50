"""The recipes of BI-DiffSR are as published, build, and train on DF2K's layout."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load as load_file
from mmengine.registry import MODELS
from mmengine.runner import Runner

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.analysis import count_ops
from tests.datasets.sr_folders import write_benchmark, write_df2k

pytest.importorskip('diffusers')

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'bi_diffsr'
#: Name, magnification, tau.
RECIPES = [
    ('bi-diffsr-x2_4xb4_df2k', 2, 1),
    ('es-bi-diffsr-x2_4xb4_df2k', 2, 2),
    ('bi-diffsr-x4_4xb4_df2k', 4, 1),
    ('es-bi-diffsr-x4_4xb4_df2k', 4, 2),
]
SETS = ['Set5', 'B100', 'Urban100', 'Manga109']


def load(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def listed():
    return load_file(CONFIGS / 'metafile.yml')['Models']


def test_all_recipes_are_tested():
    found = {path.stem for path in CONFIGS.glob('*.py')}
    assert found == {name for name, *_ in RECIPES}


@pytest.mark.parametrize(('name', 'scale', 'tau'), RECIPES)
def test_recipe_is_the_published_one(name, scale, tau):
    cfg = load(name)
    assert (cfg.model.scale, cfg.model.unet.get('tau')) == (scale, tau)
    assert cfg.optim_wrapper.optimizer == dict(
        type='Adam', lr=1e-4, betas=(0.9, 0.99), weight_decay=0, fused=True
    )
    assert not cfg.param_scheduler
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (10**6, 20_000)
    train = cfg.train_dataloader
    assert (train.batch_size, train.dataset.crop_size) == (4, 64 * scale)
    assert train.dataset.augment
    assert cfg.model.sampling.num_inference_steps == 50
    for loader in (train, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.scale == scale
        assert all(f'/X{scale}' in folder for folder in loader.dataset.lr)
    assert [folder.split('/')[0] for folder in cfg.test_dataloader.dataset.hr] == SETS
    for metric in cfg.test_evaluator:
        assert (metric.crop_border, metric.convert_to) == (scale, 'Y')


def shrink(cfg, root, work_dir):
    """Keep the recipe, but read few small images from ``root``."""
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=1, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(root)
    cfg.train_dataloader.batch_size = 2
    cfg.train_dataloader.dataset.crop_size = 16
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.update(interval=-1, save_best=None)
    cfg.default_hooks.logger.interval = 1
    cfg.model.sampling.num_inference_steps = 2
    cfg.work_dir = str(work_dir)
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'scale'), [RECIPES[0][:2], RECIPES[3][:2]])
def test_recipe_trains(name, scale, tmp_path):
    root = write_df2k(tmp_path / 'data', scale, sizes=((48, 64),))
    write_benchmark(root, 'Set5', scale, sizes=((26, 34),))
    runner = Runner.from_cfg(shrink(load(name), root, tmp_path / 'work'))
    before = {k: v.clone() for k, v in runner.model.named_parameters()}
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss_l1').data[0]
    assert len(losses) == 2 and all(torch.isfinite(torch.tensor(losses)))
    assert runner.message_hub.get_scalar('val/Set5/PSNR').current() > 0
    still = [k for k, v in runner.model.named_parameters() if torch.equal(v, before[k])]
    assert not still


@pytest.mark.slow
@pytest.mark.parametrize('scale', [2, 4])
def test_all_benchmarks_are_tested_at_once(scale, tmp_path):
    cfg = load(f'es-bi-diffsr-x{scale}_4xb4_df2k')
    # the recipe's data and metrics, a narrow network
    cfg.model.unet.update(base_channels=8, num_levels=2, blocks_per_level=1, norm_groups=4)
    for i, name in enumerate(SETS):
        write_benchmark(tmp_path / 'data', name, scale, sizes=((30 + i, 32),))
    cfg = shrink(cfg, tmp_path / 'data', tmp_path / 'work')
    figures = Runner.from_cfg(cfg).test()
    assert set(figures) == {f'{n}/{m}' for n in SETS for m in ('PSNR', 'SSIM')}
    assert len(set(figures.values())) == 8


def test_metafile_says_what_the_networks_have():
    entries = {entry['Name']: entry for entry in listed()}
    assert set(entries) == {name for name, *_ in RECIPES}
    for name, scale, _ in RECIPES:
        with torch.device('meta'):
            model = MODELS.build(load(name).model)
        count = sum(parameter.numel() for parameter in model.unet.parameters())
        assert entries[name]['Metadata']['Parameters'] == count
        # a result of 256 x 256
        total = count_ops(model, (3, 256 // scale, 256 // scale)).total
        assert entries[name]['Metadata']['FLOPs'] == total['ops']
