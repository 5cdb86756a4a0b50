"""ReActNet's two-stage recipe: its values, and the initial weights of stage two."""

import argparse

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmesbnn.models.classifiers import student_config
from mmesbnn.models.losses import HardnessWeightedKDLoss
from tests.configs.schedules import rates_of_epochs
from tests.configs.test_recipes import CONFIGS, RECIPES, shrink
from tests.engine.toy import Record
from tests.real_data import write_imagenet

NAMES = [name for name in RECIPES if name.startswith('reactnet/')]
SCRATCH = [name for name in NAMES if '_stage' not in name]
#: An arch of the same layout that is built fast.
SMALL = {'A': dict(channels=[8, 16, 16]), '18': dict(channels=[8, 8, 16], depths=[1, 1])}


def load(name):
    return Config.fromfile(CONFIGS / name)


def small(name):
    cfg = load(name)
    cfg.model.backbone.arch = SMALL[cfg.model.backbone.arch]
    widths = cfg.model.backbone.arch['channels']
    cfg.model.head.in_channels = widths[-1]
    return cfg


def optimizer(cfg):
    return build_optim_wrapper(MODELS.build(cfg.model.backbone), cfg.optim_wrapper)


# numbers --------------------------------------------------------------------------


def test_there_are_two_stages_of_every_network_and_bi_real_from_scratch():
    networks = ('birealnet-18', 'reactnet-18', 'reactnet-a')
    expected = {
        (f'{es}{network}', stage) for network in networks for es in ('', 'es-') for stage in (1, 2)
    }
    found = {tuple(name[9:].split('_')[:2]) for name in NAMES if name not in SCRATCH}
    assert found == {(name, f'stage{stage}') for name, stage in expected}
    assert [name.split('_')[0] for name in SCRATCH] == [
        'reactnet/birealnet-18',
        'reactnet/es-birealnet-18',
    ]


@pytest.mark.parametrize('name', NAMES)
def test_networks_and_stages_are_what_the_names_say(name):
    cfg = load(name)
    backbone = cfg.model.backbone
    assert backbone.arch == ('A' if '-a_' in name else '18')
    assert backbone.get('tau', 1) == (2 if 'es-' in name else 1)
    assert backbone.get('generalized', True) is ('birealnet' not in name)
    binarizer = backbone.get('weight_binarizer', 'scaled_sign')
    assert binarizer == ('real' if 'stage1' in name else 'scaled_sign')
    stem = name.removeprefix('reactnet/').removesuffix('.py')
    first = stem.replace('stage2', 'stage1')
    start = f'work_dirs/{first}/epoch_128.pth' if 'stage2' in name else None
    assert cfg.get('load_from') == start


@pytest.mark.parametrize('name', NAMES)
def test_learning_rate_of_every_epoch(name):
    cfg = small(name)
    epochs, rate = cfg.train_cfg.max_epochs, 1.25e-3 if '-a_' in name else 2.5e-3
    if name in SCRATCH:
        rate = 1e-3
    assert epochs == (256 if name in SCRATCH else 128)
    rates = rates_of_epochs(cfg, optimizer(cfg))
    # epoch 0 at the full rate, and the last one still above 0
    assert rates == pytest.approx([rate * (1 - k / epochs) for k in range(epochs)])


@pytest.mark.parametrize('name', NAMES)
def test_batch_and_weight_decay(name):
    cfg = small(name)
    batch = 256 if '-a_' in name else 512
    assert 8 * cfg.train_dataloader.batch_size == batch
    assert cfg.auto_scale_lr.base_batch_size == batch
    wrapper = optimizer(cfg)
    assert type(wrapper.optimizer) is torch.optim.Adam
    kernels, others = wrapper.optimizer.param_groups
    assert kernels['weight_decay'] == (1e-5 if 'stage1' in name else 0)
    assert others['weight_decay'] == 0
    # kernels and shifts are in the first group, norms and slopes in the second
    assert all(p.dim() == 4 for p in kernels['params'])
    assert all(p.dim() == 1 for p in others['params'])


def test_the_loss_is_the_cross_entropy_to_the_teacher():
    cfg = load('reactnet/reactnet-a_stage1_8xb32_in1k.py').model
    assert list(cfg.teachers) == ['main']
    loss = MODELS.build(cfg.distill_loss)
    assert type(loss) is HardnessWeightedKDLoss
    logits, teacher = torch.randn(2, 5, 7, dtype=torch.double)
    expected = -(teacher.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss(logits, [teacher]), expected)


def test_lighting_is_the_published_one():
    cfg = load('reactnet/reactnet-a_stage1_8xb32_in1k.py')
    (lighting,) = (t for t in cfg.train_pipeline if t.type == 'Lighting')
    red = [-0.5675, 0.7192, 0.4009]
    assert lighting.eigvec[2] == red  # images are B, G, R
    assert not lighting.get('to_rgb', False)


# the second stage -----------------------------------------------------------------


def run(name, root, work_dir, load_from=None):
    """Run two iterations of a small network; return its weights before each."""
    cfg = small(name)
    start = cfg.pop('load_from')
    cfg = shrink(cfg, root, work_dir)
    # any network with a thousand classes can be the teacher
    cfg.model.teachers.main.model = student_config(cfg.model)
    cfg.default_hooks.checkpoint.update(interval=1, save_best=None)
    cfg.load_from = load_from or start
    runner = Runner.from_cfg(cfg)
    record = Record(lambda r: {k: v.clone() for k, v in r.model.state_dict().items()})
    runner.register_hook(record)
    runner.train()
    return runner, record.seen['train']


@pytest.mark.slow
@pytest.mark.parametrize('network', ['es-reactnet-a', 'reactnet-18'])
def test_stage_2_starts_from_the_weights_of_stage_1(network, tmp_path):
    root = write_imagenet(tmp_path / 'imagenet')
    first, second = (
        next(n for n in NAMES if n.startswith(f'reactnet/{network}_stage{stage}'))
        for stage in (1, 2)
    )
    trained, _ = run(first, root, tmp_path / 'stage1')
    runner, seen = run(
        second, root, tmp_path / 'stage2', load_from=str(tmp_path / 'stage1' / 'epoch_1.pth')
    )
    start, end = trained.model.state_dict(), runner.model.state_dict()
    assert seen[0].keys() == start.keys()
    for key, value in start.items():
        assert torch.equal(seen[0][key], value), key
    latent = [key for key in start if '.convs.' in key]
    assert latent
    for key in latent:
        assert not torch.equal(end[key], start[key])  # and it continues from there


def test_stage_2_without_stage_1_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = write_imagenet(tmp_path / 'imagenet')
    with pytest.raises(FileNotFoundError, match='reactnet-18_stage1'):
        run('reactnet/reactnet-18_stage2_8xb64_in1k.py', root, tmp_path / 'work')


def test_the_readme_says_how_to_give_a_path_with_spaces():
    """mim's tools parse --cfg-options with mmengine, which removes spaces in values."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    given = parser.parse_args(['--cfg-options', 'load_from=my runs/a.pth']).cfg_options
    readme = ' '.join((CONFIGS / 'reactnet' / 'README.md').read_text().split())
    assert given == {'load_from': 'my runs/a.pth'} or '`mim` removes the spaces' in readme
