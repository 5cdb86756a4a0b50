"""The hook sets the progress of scheduled modules, also in moving averages and after a resume."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from torch import nn

from mmesbnn.binary import BinaryConv2d, Scheduled
from mmesbnn.engine.hooks import EstimatorProgressHook
from tests.engine import toy


class Model(BaseModel):
    """A convolution whose sign and weight binarizer both have a schedule."""

    def __init__(self, sign='ede'):
        super().__init__()
        self.conv = BinaryConv2d(3, 8, 3, sign=sign, weight_binarizer='recu')
        self.fc = nn.Linear(8, toy.CLASSES)

    def forward(self, inputs, labels=None, mode='tensor'):
        logits = self.fc(self.conv(inputs).mean((2, 3)))
        return {'loss': F.cross_entropy(logits, labels)} if mode == 'loss' else logits


def progress(runner):
    found = {m.progress.item() for m in runner.model.modules() if isinstance(m, Scheduled)}
    (value,) = found
    return value


def test_by_epoch(tmp_path):
    record = toy.Record(progress)
    runner = toy.runner(tmp_path, [EstimatorProgressHook(), record], model=Model(), epochs=5)
    runner.train()
    assert record.seen['train'] == pytest.approx([0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1])
    assert 'train/estimator_progress' in toy.history(runner)


def test_by_iteration(tmp_path):
    record = toy.Record(progress)
    hooks = [EstimatorProgressHook(by_epoch=False), record]
    toy.runner(tmp_path, hooks, model=Model(), iters=3).train()
    assert record.seen['train'] == pytest.approx([0, 0.5, 1])


def test_one_step_only(tmp_path):
    record = toy.Record(progress)
    toy.runner(tmp_path, [EstimatorProgressHook(), record], model=Model(), epochs=1).train()
    assert record.seen['train'] == [0, 0]


def test_the_moving_average_follows(tmp_path):
    ema = EMAHook(momentum=0.1)
    toy.runner(tmp_path, [ema, EstimatorProgressHook()], model=Model(), epochs=3).train()
    inside = [m for m in ema.ema_model.modules() if isinstance(m, Scheduled)]
    assert [m.progress.item() for m in inside] == [1, 1]


def test_a_resumed_training_goes_on(tmp_path):
    save = dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)))
    toy.runner(tmp_path, [EstimatorProgressHook()], model=Model(), epochs=5, **save).train()
    record = toy.Record(progress)
    options = dict(load_from=str(tmp_path / 'epoch_2.pth'), resume=True)
    hooks = [EstimatorProgressHook(), record]
    toy.runner(tmp_path / 'b', hooks, model=Model(), epochs=5, **options).train()
    assert record.seen['train'] == pytest.approx([0.5, 0.5, 0.75, 0.75, 1, 1])


def test_gradients_change_with_the_progress(tmp_path):
    def weights(hooks):
        torch.manual_seed(0)
        runner = toy.runner(tmp_path, hooks, model=Model(), epochs=3)
        runner.train()
        return runner.model.conv.weight.detach()

    assert not torch.equal(weights([EstimatorProgressHook()]), weights([]))


def test_a_model_without_a_schedule_is_refused(tmp_path):
    with pytest.raises(ValueError, match='EstimatorProgressHook: the model has no sign'):
        toy.runner(tmp_path, [EstimatorProgressHook()]).train()


def test_epochs_of_a_training_that_counts_iterations(tmp_path):
    with pytest.raises(ValueError, match='by_epoch=False'):
        toy.runner(tmp_path, [EstimatorProgressHook()], model=Model(), iters=2).train()
