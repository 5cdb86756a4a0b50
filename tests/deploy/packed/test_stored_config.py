"""Configs in files are read as data and never run."""

import math

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmesbnn.deploy.packed.stored_config import (
    ConfigError,
    check_types,
    from_json,
    kept_part,
    parse_text,
    to_json,
)

CONFIG = dict(
    default_scope='mmpretrain',
    model=dict(type='A', sizes=(1, 2.5, -3), flags=[True, None], empty={}, far=math.inf),
    names={'two words': "it's", '0': 'zero'},
)


def test_reads_what_mmengine_writes():
    text = Config(CONFIG).pretty_text
    assert parse_text(text) == Config(CONFIG).to_dict() == CONFIG


@pytest.mark.parametrize(
    'text',
    [
        "import os\nos.system('true')",
        "x = __import__('os').system('true')",
        'x = [i for i in range(3)]',
        'x = dict(**y)',
        'x = dict(y, z=1)',
        'x = y',
        'x = 1 +',
    ],
)
def test_runs_nothing(text):
    with pytest.raises(ConfigError, match='the stored config'):
        parse_text(text)


def test_json_keeps_tuples():
    config = dict(scale=(640, 480), nested=[(1, (2,))], empty=())
    assert from_json(to_json(config)) == config


def test_what_json_cannot_hold():
    with pytest.raises(ConfigError, match='cannot be stored: f is a builtin_function_or_method'):
        to_json(dict(f=len))
    with pytest.raises(ConfigError, match=r'^dataset_meta .* is a set, not a word or number$'):
        to_json(dict(classes={'a'}), 'dataset_meta')
    # mmdet's DETRHead changes its config when it is built
    head = dict(losses=[dict(type='A'), dict(class_weight=torch.ones(3))])
    with pytest.raises(ConfigError, match=r'model.losses\[1\].class_weight is a Tensor, .* again'):
        to_json(dict(model=head))


@pytest.mark.parametrize('text', ['{', '[]', '3'])
def test_json_that_is_no_config(text):
    with pytest.raises(ConfigError, match='the stored config is no'):
        from_json(text)


@pytest.mark.parametrize('kind', ['BNext', 'mmdet.FPN', 'torchvision/ToTensor'])
def test_registered_names(kind):
    check_types(dict(a=[dict(type=kind)]))


@pytest.mark.parametrize(
    'kind', ['os.system', 'mmengine.call_command', 'mmdet.a.B', 'a.b.c', '', 3, None]
)
def test_other_types(kind):
    with pytest.raises(ConfigError, match='must be a registered name'):
        check_types(dict(a=(dict(b=dict(type=kind)),)))


def test_paths_of_registered_classes_become_names():
    config = dict(
        model=dict(
            type='mmpretrain.models.classifiers.image.ImageClassifier',
            backbone=dict(type='mmesbnn.models.backbones.bnext.BNext'),
            act=dict(type=nn.ReLU),
        ),
        train_cfg=dict(max_epochs=3),
    )
    assert kept_part(config) == dict(
        model=dict(
            type='mmpretrain.ImageClassifier', backbone=dict(type='BNext'), act=dict(type='ReLU')
        )
    )
