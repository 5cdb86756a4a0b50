"""BinaryViT's recipe: its values, its teacher, and the differences of its configs."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from tests.configs.schedules import rates_of_epochs
from tests.configs.test_recipes import CONFIGS, RECIPES

NAMES = [name for name in RECIPES if name.startswith('binary_vit/')]
ARCH = dict(dims=[8], depths=[1], heads=[1], ffn_dims=[16], sr_ratios=[1])


def load(name):
    return Config.fromfile(CONFIGS / name)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('binary-vit-small', dict(arch='small')),
        ('es-binary-vit-small', dict(arch='small', tau=2)),
        ('es-all-binary-vit-small', dict(arch='small', tau=2, es_scope='all')),
        ('binary-vit-small-some-fp', dict(arch='small', some_fp=True)),
        ('binary-deit-small', dict(arch='deit-small')),
    ],
)
def test_networks_are_what_the_names_say(name, options):
    backbone = load(f'binary_vit/{name}_8xb64_in1k.py').model.backbone
    expected = dict(type='BinaryViT', norm_cfg=dict(type='SyncBN'), **options)
    assert backbone.to_dict() == expected


@pytest.mark.parametrize('name', NAMES)
def test_recipe(name):
    cfg = load(name)
    assert 8 * cfg.train_dataloader.batch_size == 512
    assert cfg.auto_scale_lr.base_batch_size == 512
    assert list(cfg.model.teachers) == ['main']
    assert cfg.model.teachers.main.model == 'deit-small_4xb256_in1k'
    kinds = [transform.type for transform in cfg.train_pipeline]
    assert kinds == ['LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'PackInputs']


def test_learning_rate_of_every_epoch():
    cfg = load('binary_vit/binary-vit-small_8xb64_in1k.py')
    epochs = cfg.train_cfg.max_epochs
    assert epochs == 300
    model = MODELS.build(dict(type='BinaryViT', arch=ARCH, img_size=32))
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert type(wrapper.optimizer) is torch.optim.AdamW
    assert {group['weight_decay'] for group in wrapper.optimizer.param_groups} == {0}
    rates = rates_of_epochs(cfg, wrapper)
    # the step comes after its epoch, so epochs 0 and 1 are equal
    expected = [
        1e-5 + (5e-4 - 1e-5) * (1 + math.cos(math.pi * max(k - 1, 0) / 300)) / 2
        for k in range(epochs)
    ]
    assert rates == pytest.approx(expected)
