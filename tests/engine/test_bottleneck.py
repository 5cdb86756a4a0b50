"""The hook activates every bottleneck term at its step, also after resuming."""

import pytest
import torch
from torch import nn

from mmesbnn.engine.hooks import BottleneckHook
from mmesbnn.engine.hooks.bottleneck import bottleneck_terms
from mmesbnn.models.losses import FeatureEnergyLoss, SparseObjectLoss
from tests.engine import toy


class ToyDetector(toy.ToyClassifier):
    """A classifier with both terms, as deep in the model as in a detector's head."""

    def __init__(self):
        super().__init__()
        self.head = nn.ModuleDict(dict(reg=FeatureEnergyLoss(0.5), prior=SparseObjectLoss(0.25)))

    def forward(self, inputs, labels=None, mode='tensor'):
        losses = super().forward(inputs, labels, mode)
        if mode == 'loss':
            features = self.backbone(inputs)[-1]
            scores = self.fc(features.mean((2, 3))).sigmoid().flatten()
            losses['loss_reg'] = self.head.reg(features)
            losses['loss_prior'] = self.head.prior([(scores, 1)], scores)
        return losses


class Wrapped(nn.Module):
    """A wrapper like DDP."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def activity(model):
    return {term.active for term in bottleneck_terms(model)}


def watch():
    return toy.Record(lambda runner: activity(runner.model))


def logged(runner, name):
    return runner.message_hub.get_scalar(f'train/{name}').data[0]


def test_terms_come_in_at_the_iteration_and_are_logged_as_zero_before(tmp_path):
    record = watch()
    hooks = [BottleneckHook(2, by_epoch=False), record]
    runner = toy.runner(tmp_path, hooks, ToyDetector(), iters=4, log_level='INFO')
    runner.train()
    assert record.seen['train'] == [{False}, {False}, {True}, {True}]
    for name in ('loss_reg', 'loss_prior'):
        before, after = logged(runner, name)[:2], logged(runner, name)[2:]
        assert list(before) == [0, 0]
        assert min(after) > 0
    assert (
        'iteration 2: bottleneck terms on (FeatureEnergyLoss 0.5, SparseObjectLoss '
        '0.25)' in toy.log_of(tmp_path)
    )


def test_terms_come_in_at_the_epoch(tmp_path):
    record = watch()
    toy.runner(tmp_path, [BottleneckHook(1), record], ToyDetector(), epochs=2).train()
    assert record.seen['train'] == [{False}, {False}, {True}, {True}]


@pytest.mark.parametrize(('begin', 'expected'), [(1, {True}), (2, {True}), (3, {False})])
def test_a_training_resumed_later_has_the_terms_on(tmp_path, begin, expected):
    save = dict(checkpoint=dict(type='CheckpointHook', interval=1))
    toy.runner(
        tmp_path, [BottleneckHook(begin)], ToyDetector(), epochs=2, default_hooks=save
    ).train()
    record = watch()
    runner = toy.runner(
        tmp_path,
        [BottleneckHook(begin), record],
        ToyDetector(),
        epochs=3,
        default_hooks=save,
        resume=True,
        load_from=str(tmp_path / 'epoch_2.pth'),
    )
    runner.train()
    assert record.seen['train'] == [expected, expected]  # the third epoch's


def test_terms_are_found_through_wrappers():
    model = ToyDetector()
    assert bottleneck_terms(Wrapped(model)) == list(model.head.values())
    compiled = torch.compile(Wrapped(model))
    assert bottleneck_terms(compiled) == list(model.head.values())


def test_terms_are_no_part_of_the_checkpoint():
    assert not [key for key in ToyDetector().state_dict() if 'head' in key]


def test_a_training_that_ends_before_gets_a_warning(tmp_path):
    toy.runner(tmp_path, [BottleneckHook(2)], ToyDetector(), epochs=2).train()
    assert 'switched on at epoch 2, after the last one, 1' in toy.log_of(tmp_path)


def test_a_model_without_terms_is_refused(tmp_path):
    with pytest.raises(ValueError, match='no module of the model is a BottleneckTerm'):
        toy.runner(tmp_path, [BottleneckHook(1)]).train()


def test_by_epoch_does_not_fit_a_loop_that_counts_iterations(tmp_path):
    with pytest.raises(ValueError, match=r'by_epoch=True.*by_epoch=False'):
        toy.runner(tmp_path, [BottleneckHook(1)], ToyDetector(), iters=2).train()


@pytest.mark.parametrize('begin', [-1, 1.5, True])
def test_bad_steps_are_named(begin):
    with pytest.raises(ValueError, match=f'begin={begin}'):
        BottleneckHook(begin)
