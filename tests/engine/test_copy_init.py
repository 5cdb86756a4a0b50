"""Copies of drop-in layers start with gains of +-1, in new trainings only."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from torch import nn

from mmesbnn.binary import ESConv2d
from mmesbnn.engine.hooks import CopyInitHook
from tests.engine import toy


class DropIn(BaseModel):
    """A network of drop-in layers; the last has no norm."""

    def __init__(self, tau=2):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.body = nn.Sequential(
            ESConv2d(8, 8, 3, tau=tau), nn.BatchNorm2d(8), nn.PReLU(8), ESConv2d(8, 8, 3, tau=tau)
        )
        self.fc = nn.Linear(8, toy.CLASSES)

    def forward(self, inputs, labels=None, mode='tensor'):
        logits = self.fc(self.body(self.first(inputs)).mean((2, 3)))
        return {'loss': F.cross_entropy(logits, labels)} if mode == 'loss' else logits


def gains(runner):
    return runner.model.body[1].weight.detach().clone()


def train(folder, hook, **options):
    record = toy.Record(gains)
    options = {'model': DropIn(), 'epochs': 1, 'optim_wrapper': FROZEN, **options}
    runner = toy.runner(folder, [hook, record], **options)
    runner.train()
    return runner, record.seen['train']


FROZEN = dict(optimizer=dict(type='SGD', lr=0.0))


def test_gains_are_balanced_from_the_first_iteration_on(tmp_path):
    hook = HOOKS.build(dict(type='CopyInitHook'))
    runner, seen = train(tmp_path, hook, log_level='INFO')
    assert len(seen) == 2 and torch.equal(*seen)
    assert seen[0].abs().eq(1).all()
    assert (seen[0] < 0).view(2, 4).sum(0).eq(1).all()
    assert runner.model.body[1].num_batches_tracked == 2, 'a look trains no statistics'
    assert 'copies of 1 layers start with gains of +-1 (balanced)' in toy.log_of(tmp_path)
    assert 'these start alike: body.3' in toy.log_of(tmp_path)


def test_resumed_trainings_go_on_with_their_gains(tmp_path):
    checkpoint = dict(checkpoint=dict(type='CheckpointHook', interval=1))
    first, _ = train(tmp_path, CopyInitHook(), default_hooks=checkpoint)
    options = dict(epochs=2, resume=True, default_hooks=checkpoint)
    _, seen = train(tmp_path, CopyInitHook(), **options)
    assert len(seen) == 2 and torch.equal(seen[0], gains(first))


def test_loaded_gains_stay(tmp_path):
    model = DropIn()
    nn.init.uniform_(model.body[1].weight, 1, 2)
    before = model.body[1].weight.detach().clone()
    with pytest.raises(ValueError, match='no new batch norm'):
        train(tmp_path, CopyInitHook(), model=model)
    assert torch.equal(model.body[1].weight, before)


def test_alike_changes_nothing(tmp_path):
    _, seen = train(tmp_path, CopyInitHook('alike'))
    assert seen[0].eq(1).all()


def test_models_without_copies_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"copy_init='balanced': no new batch norm .*: remove"):
        train(tmp_path, CopyInitHook(), model=DropIn(tau=1))
    with pytest.raises(ValueError, match="copy_init='both' must be"):
        CopyInitHook('both')
