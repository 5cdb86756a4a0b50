"""An interrupted training ends like an uninterrupted one."""

import pytest
import torch
from mmengine.hooks import EMAHook

from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.engine.hooks import ParameterBoundsHook, SignFlipHook, TemperatureHook
from tests.engine import toy


def train(work_dir, epochs, **kwargs):
    torch.manual_seed(0)
    runner = toy.runner(
        work_dir,
        [TemperatureHook(decay=0.01), ParameterBoundsHook(), SignFlipHook(), EMAHook(momentum=0.1)],
        epochs=epochs,
        default_hooks=dict(checkpoint=dict(type='WholeCheckpointHook', interval=1)),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=1e-2, weight_decay=1e-3),
            constructor='BinaryOptimWrapperConstructor',
            clip_grad=dict(max_norm=5),
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, begin=0, end=2),
            dict(type='CosineAnnealingLR', T_max=4, eta_min=1e-7, begin=1, end=4),
        ],
        **kwargs,
    )
    runner.train()
    return runner


@pytest.fixture(scope='module')
def trainings(tmp_path_factory):
    """Train four epochs at once, and two plus two."""
    folders = [tmp_path_factory.mktemp(name) for name in ('whole', 'parts')]
    whole = train(folders[0], 4)
    train(folders[1], 2)
    last = str(folders[1] / 'epoch_2.pth')
    parts = train(folders[1], 4, resume=True, load_from=last)
    return whole, parts, folders


def test_every_logged_number_is_the_same(trainings):
    whole, parts, _ = trainings
    expected = toy.history(whole)
    for name in ('loss', 'lr', 'temperature', 'binary_weights', 'flip_rate'):
        assert f'train/{name}' in expected
    assert len(expected['train/loss']) == 8
    assert len(set(expected['train/loss'])) == 8
    assert len(expected['train/flip_rate']) == 4
    assert max(expected['train/flip_rate']) > 0
    assert toy.history(parts) == expected


def test_every_tensor_of_the_checkpoint_is_the_same(trainings):
    saved = [dict(toy.tensors(read_checkpoint(folder / 'epoch_4.pth'))) for folder in trainings[2]]
    whole, parts = saved
    assert whole.keys() == parts.keys()
    for start in ('.state_dict', '.ema_state_dict', '.optimizer'):
        assert any(name.startswith(start) for name in whole)
    assert not [name for name in whole if not torch.equal(whole[name], parts[name])]


def test_the_average_that_was_saved_is_not_the_model(trainings):
    saved = read_checkpoint(trainings[2][0] / 'epoch_4.pth')
    name = 'fc.weight'
    assert not torch.equal(saved['state_dict'][name], trainings[0].model.fc.weight)
    assert torch.equal(saved['ema_state_dict'][f'module.{name}'], trainings[0].model.fc.weight)
