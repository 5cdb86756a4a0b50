"""The recipe's optimizer and learning rates are the published ones."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS

from tests.engine import toy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cfg():
    pytest.importorskip('mmpretrain')  # it inherits from there
    return Config.fromfile(ROOT / 'configs/_base_/bnext_runtime.py')


@pytest.fixture
def model():
    return toy.ToyClassifier()


def published(epoch):
    if epoch < 5:
        return 1e-5 + 1.98e-4 * epoch
    cosine = math.cos(math.pi * (epoch - 5) / 512)
    return 1e-7 + 0.5 * (1e-3 - 1e-7) * (1 + cosine)


def build_schedulers(cfg, wrapper):
    """Build the schedulers like the runner, in their order."""
    return [
        PARAM_SCHEDULERS.build(scheduler, default_args=dict(optimizer=wrapper, epoch_length=2))
        for scheduler in cfg.param_scheduler
    ]


def test_learning_rate_of_every_epoch(cfg, model):
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    schedulers = build_schedulers(cfg, wrapper)
    assert all(scheduler.by_epoch for scheduler in schedulers)
    assert cfg.train_cfg.by_epoch and cfg.train_cfg.max_epochs == 512
    rates = []
    for _ in range(cfg.train_cfg.max_epochs):
        rates.append([group['lr'] for group in wrapper.optimizer.param_groups])
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    expected = [[published(epoch)] * 2 for epoch in range(512)]
    torch.testing.assert_close(
        torch.tensor(rates, dtype=torch.float64),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-9,
        atol=0,
    )


def test_runner_steps_it_once_per_epoch(cfg, model, tmp_path):
    record = toy.Record(lambda runner: runner.optim_wrapper.get_lr()['lr'])
    toy.runner(
        tmp_path,
        [record],
        model=model,
        epochs=7,
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=cfg.param_scheduler,
    ).train()
    # two iterations an epoch, two groups
    expected = [published(epoch) for epoch in range(7) for _ in range(2)]
    assert [rates[0] for rates in record.seen['train']] == pytest.approx(expected)
    assert all(len(set(rates)) == 1 for rates in record.seen['train'])


def test_optimizer_is_adamw_with_two_weight_decays(cfg, model):
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert type(wrapper.optimizer) is torch.optim.AdamW
    kernels, others = wrapper.optimizer.param_groups
    assert (kernels['weight_decay'], others['weight_decay']) == (1e-8, 1e-3)
    for group in (kernels, others):
        assert (group['lr'], group['betas'], group['eps']) == (1e-3, (0.9, 0.999), 1e-8)
    expected = {id(p) for p in model.parameters() if p.dim() == 4}
    assert {id(p) for p in kernels['params']} == expected
    rest = {id(p) for p in model.parameters()} - expected
    assert {id(p) for p in others['params']} == rest
    assert expected and rest


@pytest.mark.parametrize(('norm', 'expected'), [(500.0, 5.0), (2.0, 2.0)])
def test_gradients_are_clipped_to_the_published_norm(cfg, model, norm, expected):
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    parameters = list(model.parameters())
    count = sum(p.numel() for p in parameters)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, norm / math.sqrt(count))
    wrapper.step()
    total = math.sqrt(sum(p.grad.double().square().sum().item() for p in parameters))
    assert total == pytest.approx(expected, rel=1e-4)
