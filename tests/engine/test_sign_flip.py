"""The flip rate is the share of signs that changed in an epoch."""

import copy

import pytest
import torch
from mmengine.hooks import Hook

from mmesbnn.binary import BinaryConv2d
from mmesbnn.engine.hooks import SignFlipHook
from tests.engine import toy

FROZEN = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)))


class Flip(Hook):
    """Flip the first ``count`` weights of the first binary layer in every epoch."""

    def __init__(self, count):
        self.count = count

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if batch_idx == 0:
            layer = binary_layers(runner.model)[0]
            with torch.no_grad():
                layer.weight.view(-1)[: self.count] *= -1


def binary_layers(model):
    return [m for m in model.modules() if isinstance(m, BinaryConv2d)]


def rates(runner):
    return runner.message_hub.get_scalar('train/flip_rate').data[0].tolist()


def test_rate_is_the_number_of_flips_per_epoch(tmp_path):
    runner = toy.runner(tmp_path, [SignFlipHook(), Flip(7)], epochs=2, **FROZEN)
    runner.train()
    total = sum(layer.weight.numel() for layer in binary_layers(runner.model))
    assert rates(runner) == [7 / total, 7 / total]


def test_there_and_back_within_an_epoch_is_no_flip(tmp_path):
    hooks = [SignFlipHook(), Flip(7), Flip(7)]
    runner = toy.runner(tmp_path, hooks, epochs=1, **FROZEN)
    runner.train()
    assert rates(runner) == [0]


def test_interval_measures_every_nth_epoch_by_itself(tmp_path):
    runner = toy.runner(tmp_path, [SignFlipHook(interval=2), Flip(7)], epochs=5, **FROZEN)
    runner.train()
    total = sum(layer.weight.numel() for layer in binary_layers(runner.model))
    assert rates(runner) == [7 / total] * 2


def test_layers_are_named_at_debug_level_only(tmp_path):
    for level in ('INFO', 'DEBUG'):
        folder = tmp_path / level
        hooks = [SignFlipHook(), Flip(7)]
        runner = toy.runner(folder, hooks, epochs=1, log_level=level, **FROZEN)
        runner.train()
        size = binary_layers(runner.model)[0].weight.numel()
        line = f'backbone.stages.0.0.spatial.conv: {7 / size:.3%}'
        assert (line in toy.log_of(folder)) == (level == 'DEBUG')


def test_model_without_binary_layers_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='SignFlipHook: the model has no binary layer'):
        toy.runner(tmp_path, [SignFlipHook()], model=toy.PlainModel()).train()


def test_interval_must_be_positive():
    with pytest.raises(ValueError, match='interval=0 must be an integer >= 1'):
        SignFlipHook(interval=0)


def test_only_the_student_of_a_semi_supervised_detector_counts(tmp_path):
    model = toy.ToyClassifier()
    model.student, model.teacher = model.backbone, copy.deepcopy(model.backbone)
    runner = toy.runner(tmp_path, [SignFlipHook(), Flip(7)], model=model, epochs=1, **FROZEN)
    runner.train()
    total = sum(layer.weight.numel() for layer in binary_layers(model.student))
    assert rates(runner) == [7 / total]
