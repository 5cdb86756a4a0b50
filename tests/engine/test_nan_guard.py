"""A NaN loss stops the training before it spoils a checkpoint."""

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.engine.hooks import NaNGuardHook
from mmesbnn.engine.hooks.nan_guard import total
from tests.engine import toy


class Breaking(BaseModel):
    """A model whose second loss is ``bad`` in its ``when``-th step, counted from 0."""

    def __init__(self, when, bad=float('nan')):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.when, self.bad, self.step = when, bad, 0

    def forward(self, inputs, labels=None, mode='tensor'):
        bad = self.bad if self.step == self.when else 1.0
        self.step += 1
        return {'loss_a': self.weight.sum(), 'loss_b': self.weight.sum() * bad}


def saving(**kwargs):
    return dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', **kwargs)))


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), float('-inf')])
def test_error_names_the_first_bad_iteration_and_the_checkpoint_before(tmp_path, bad):
    runner = toy.runner(
        tmp_path, [NaNGuardHook()], model=Breaking(3, bad), epochs=9, **saving(interval=1)
    )
    with pytest.raises(FloatingPointError, match=f'iteration 3: the loss became {bad}') as e:
        runner.train()
    # two iterations an epoch: the one of the first epoch is the last good one
    assert str(tmp_path / 'epoch_1.pth') in str(e.value)
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']
    weights = read_checkpoint(tmp_path / 'epoch_1.pth')['state_dict']
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize(('interval', 'steps'), [(1, 4), (3, 6), (50, 10)])
def test_reads_every_interval_and_at_the_end(tmp_path, interval, steps):
    model = Breaking(3)
    hook = NaNGuardHook(interval)
    with pytest.raises(FloatingPointError, match=r'iteration 3.*Last checkpoint.*none'):
        toy.runner(tmp_path, [hook], model=model, iters=10).train()
    assert model.step == steps


def test_iteration_checkpoints_are_kept_clean_too(tmp_path):
    runner = toy.runner(
        tmp_path,
        [NaNGuardHook(2)],
        model=Breaking(3),
        iters=10,
        **saving(by_epoch=False, interval=2, max_keep_ckpts=1),
    )
    with pytest.raises(FloatingPointError, match=r'now loss=nan, loss_b=nan'):
        runner.train()
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_2.pth']


def test_finite_losses_pass(tmp_path):
    runner = toy.runner(tmp_path, [NaNGuardHook(1)], model=Breaking(-1), epochs=2)
    runner.train()
    assert runner.iter == 4


def test_total_is_finite_only_if_every_loss_is():
    fine = dict(loss=torch.tensor(1.0), loss_b=torch.tensor([1.0, 2.0]), loss_c=3.0)
    assert total(fine) == 7
    for bad in (float('nan'), float('inf')):
        assert not total({**fine, 'loss_d': torch.tensor(bad)}).isfinite()
    assert not total(dict(a=float('inf'), b=float('-inf'))).isfinite()


def test_interval_must_be_positive():
    with pytest.raises(ValueError, match='interval=0 must be an integer >= 1'):
        NaNGuardHook(interval=0)
