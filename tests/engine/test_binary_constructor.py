"""Kernels and other parameters get different weight decay, as published."""

import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmesbnn.binary import BinaryLinear
from tests.engine import computed, toy

ADAMW = dict(type='AdamW', lr=1e-3, weight_decay=1e-3)


def build(model, **kwargs):
    cfg = dict(optimizer=ADAMW, constructor='BinaryOptimWrapperConstructor', **kwargs)
    return build_optim_wrapper(model, cfg)


def groups(model, wrapper):
    """Return the names of the parameters of both groups."""
    names = {id(p): name for name, p in model.named_parameters()}
    first, second = (
        [names[id(p)] for p in group['params']] for group in wrapper.optimizer.param_groups
    )
    assert not set(first) & set(second)
    return first, second


@pytest.fixture
def model():
    model = toy.ToyClassifier()
    model.token_mixer = BinaryLinear(8, 8, bias=True)
    return model


def test_published_groups(model):
    wrapper = build(model)
    kernels, others = groups(model, wrapper)
    assert [g['weight_decay'] for g in wrapper.optimizer.param_groups] == [1e-8, 1e-3]
    assert [g['lr'] for g in wrapper.optimizer.param_groups] == [1e-3, 1e-3]
    assert sorted(kernels + others) == sorted(dict(model.named_parameters()))
    # the kernels: stem, binary and squeeze-excite kernels, shifts, mixes
    endings = {'.'.join(name.split('.')[-2:]) for name in kernels if name.startswith('backbone')}
    assert endings == {
        'conv.weight',
        'squeeze.weight',
        'excite.weight',
        'shift.bias',
        'spatial.mix',
        '0.mix',
        '1.mix',
    }
    assert 'backbone.stem.conv.weight' in kernels
    assert 'token_mixer.weight' in kernels
    for name in (
        'fc.weight',
        'fc.bias',
        'token_mixer.bias',
        'backbone.stem.norm.weight',
        'backbone.act.weight',
        'backbone.stages.0.0.spatial.se.squeeze.bias',
        'backbone.stages.0.0.spatial.act.weight',
    ):
        assert name in others


def test_kernel_decay_and_the_optimizers_own_can_be_set(model):
    wrapper = build(model, paramwise_cfg=dict(kernel_decay=0.5))
    assert [g['weight_decay'] for g in wrapper.optimizer.param_groups] == [0.5, 1e-3]


def test_frozen_parameters_are_left_out_and_shared_ones_not_doubled(model):
    model.backbone.stem.requires_grad_(False)
    model.again = model.token_mixer
    kernels, others = groups(model, build(model))
    names = kernels + others
    assert len(names) == len(set(names))
    assert not any('stem' in name for name in names)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(names) == sorted(trained)


def test_one_step_decays_both_groups_as_told():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, 1, bias=False))
    cfg = dict(type='SGD', lr=1.0, weight_decay=0.5)
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=cfg,
            constructor='BinaryOptimWrapperConstructor',
            paramwise_cfg=dict(kernel_decay=0.25),
        ),
    )
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    wrapper.step()
    assert [p.item() for p in model.parameters()] == [0.75, 0.5]


def test_wrapper_options_and_types_pass_through(model, monkeypatch):
    name = 'mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available'
    monkeypatch.setattr(name, lambda: True)
    wrapper = build(
        model,
        type='AmpOptimWrapper',
        dtype='bfloat16',
        clip_grad=dict(max_norm=5),
        accumulative_counts=2,
    )
    assert type(wrapper).__name__ == 'AmpOptimWrapper'
    assert wrapper.clip_grad_kwargs == dict(max_norm=5)
    assert len(wrapper.optimizer.param_groups) == 2


@pytest.mark.parametrize(
    ('paramwise_cfg', 'message'),
    [
        (dict(norm_decay=0), r"unknown keys \['norm_decay'\]"),
        (dict(kernel_decay=-1), 'kernel_decay=-1 must be a finite number >= 0'),
        (dict(kernel_decay='1e-8'), "kernel_decay='1e-8' must be a finite number >= 0"),
        (dict(kernel_decay=True), 'kernel_decay=True must be a finite number >= 0'),
        (dict(kernel_decay=None), 'kernel_decay=None must be a finite number >= 0'),
    ],
)
def test_impossible_arguments(model, paramwise_cfg, message):
    with pytest.raises(ValueError, match=message):
        build(model, paramwise_cfg=paramwise_cfg)


def test_nothing_to_train_is_an_error(model):
    with pytest.raises(ValueError, match='no parameter to train'):
        build(model.requires_grad_(False))


def test_mmengines_schedulers_give_the_published_learning_rates():
    wrapper = build(toy.ToyClassifier())
    schedulers = [
        PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=wrapper))
        for cfg in (
            dict(type='LinearLR', start_factor=0.01, begin=0, end=6, by_epoch=True),
            dict(
                type='CosineAnnealingLR', T_max=512, eta_min=1e-7, begin=5, end=512, by_epoch=True
            ),
        )
    ]
    for epoch in range(512):
        if epoch < 5:
            expected = 1e-5 + 1.98e-4 * epoch
        else:
            cosine = math.cos(math.pi * (epoch - 5) / 512)
            expected = 1e-7 + 0.5 * (1e-3 - 1e-7) * (1 + cosine)
        rates = [group['lr'] for group in wrapper.optimizer.param_groups]
        assert rates == pytest.approx([expected] * 2, rel=1e-9), epoch
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert expected == pytest.approx(4.39e-7, rel=1e-3)


# with mmengine's own keys ---------------------------------------------------------


def settings(model, **paramwise_cfg):
    """Return learning rate and decay of every trained parameter, by name."""
    wrapper = build(model, paramwise_cfg=paramwise_cfg)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        for parameter in group['params']:
            name = names[id(parameter)]
            assert name not in found
            found[name] = (group['lr'], group['weight_decay'])
    return found


def kernel_names(model):
    return set(groups(model, build(model))[0])


def test_a_learning_rate_of_the_backbone_goes_with_the_two_decays(model):
    kernels = kernel_names(model)
    found = settings(model, kernel_decay=1e-7, custom_keys={'backbone': dict(lr_mult=0.1)})
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, (lr, decay) in found.items():
        assert lr == pytest.approx(1e-4 if 'backbone' in name else 1e-3)
        assert decay == (1e-7 if name in kernels else 1e-3)


def test_factors_of_the_decay_multiply_the_parameters_own(model):
    kernels = kernel_names(model)
    keys = {'stem': dict(decay_mult=2.0), 'fc': dict(weight_decay=0.5)}
    found = settings(model, norm_decay_mult=0.0, bias_lr_mult=3.0, custom_keys=keys)
    for name, (lr, decay) in found.items():
        own = 1e-8 if name in kernels else 1e-3
        if 'stem' in name:
            assert decay == 2 * own
        elif name.startswith('fc'):
            assert decay == 0.5
        elif '.norm' in name:
            assert decay == 0
        else:
            assert decay == own
        # mmengine: biases, except those of norms and of custom keys
        is_bias = name.endswith('.bias') and '.norm' not in name
        custom = 'stem' in name or name.startswith('fc')
        assert lr == pytest.approx(3e-3 if is_bias and not custom else 1e-3)


def test_equal_settings_share_a_group_and_frozen_or_shared_parameters_are_not_doubled(model):
    model.backbone.stem.requires_grad_(False)
    model.again = model.token_mixer
    found = settings(model, custom_keys={'backbone': dict(lr_mult=0.1)})
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(found) == sorted(trained)
    wrapper = build(model, paramwise_cfg=dict(custom_keys={'backbone': {}}))
    assert len(wrapper.optimizer.param_groups) <= 4


def test_an_optimizer_without_a_decay(model):
    cfg = dict(
        optimizer=dict(type='SGD', lr=0.1),
        constructor='BinaryOptimWrapperConstructor',
        paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
    )
    decays = {g['weight_decay'] for g in build_optim_wrapper(model, cfg).param_groups}
    assert decays == {0, 1e-8}


@pytest.mark.parametrize('compute', computed.WAYS)
def test_what_a_binary_weight_is_computed_from_is_a_kernel(model, compute):
    compute(model.token_mixer)
    kernels, others = groups(model, build(model))
    assert [name for name in others if name.startswith('token_mixer')] == ['token_mixer.bias']
    assert any(name.startswith('token_mixer.') for name in kernels)
