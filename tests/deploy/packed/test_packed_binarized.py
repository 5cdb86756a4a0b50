"""Packed files say which layers were binarized, and how."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

import mmesbnn
from mmesbnn.analysis import build_model
from mmesbnn.binary import ESConv2d
from mmesbnn.deploy import PackError, load_packed, pack
from mmesbnn.deploy.packed.file import read_packed
from mmesbnn.deploy.packed.layout import checksum
from tests.deploy.packed.nets import shaken

pytest.importorskip('safetensors')


class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3),
            nn.Flatten(),
            nn.Linear(8 * 16, 8),
            nn.Linear(8, 2),
        )


BINARIZED = dict(
    tau=2, es_groups=2, spread=0.25, sign=dict(type='hard_tanh', clip=1.5), pad_value=1
)


def binarized(**options):
    model = Plain()
    mmesbnn.binarize(model, keep='3', **options)
    return shaken(model)


def test_a_float_network_is_binarized_as_the_packed_one_was(tmp_path):
    model, image = binarized(**BINARIZED), torch.randn(2, 3, 8, 8)
    pack(model, tmp_path / 'net.safetensors')
    loaded = load_packed(tmp_path / 'net.safetensors', Plain())
    assert type(loaded[1]) is ESConv2d and type(loaded[3]) is nn.Linear
    assert loaded[1].conv.sign.clip == 1.5 and loaded[1].conv.pad_value == 1
    assert torch.equal(loaded(image), model(image))
    # a second time, and into a network that is already binary
    pack(loaded, tmp_path / 'again.safetensors')
    again = load_packed(tmp_path / 'again.safetensors', binarized(**BINARIZED))
    assert torch.equal(again(image), model(image))


class Versioned(Plain):
    """Network that reads entries without a version as those of its oldest form."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        assert metadata.get('version') == 2
        super()._load_from_state_dict(state, prefix, metadata, *args)


def test_a_network_with_a_version_is_loaded(tmp_path):
    model, image = Versioned(), torch.randn(2, 3, 8, 8)
    mmesbnn.binarize(model)
    pack(shaken(model), tmp_path / 'net.safetensors')
    loaded = load_packed(tmp_path / 'net.safetensors', Versioned())
    assert torch.equal(loaded(image), model(image))


def test_a_part_that_was_binarized_is_named(tmp_path):
    model, plain = (nn.ModuleDict(dict(body=Plain(), head=nn.Linear(2, 2))) for _ in range(2))
    mmesbnn.binarize(model['body'])
    pack(shaken(model), tmp_path / 'net.safetensors')
    loaded = load_packed(tmp_path / 'net.safetensors', plain)
    assert type(loaded['body'][1]) is ESConv2d and type(loaded['head']) is nn.Linear
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(loaded['body'](image), model['body'](image))


def test_a_network_of_a_config_that_was_binarized_is_built(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=64),
        ),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_model(Config(cfg))
    mmesbnn.binarize(model.backbone, tau=2, keep='*downsample*')
    pack(shaken(model), tmp_path / 'net.safetensors', config=cfg)
    loaded = load_packed(tmp_path / 'net.safetensors')
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(loaded(image), model(image))


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('{', 'JSON'),
        ('{"parts":3}', 'parts=3'),
        ('{"parts":[{"module":"","layers":["1"]}]}', 'options'),
        ('{"parts":[{"module":"x","layers":["1"],"options":{}}]}', 'no module x'),
        ('{"parts":[{"module":"","layers":["9"],"options":{}}]}', 'no layer 9'),
        ('{"parts":[{"module":"","layers":["2"],"options":{}}]}', 'nothing to binarize'),
        ('{"parts":[{"module":"","layers":["1"],"options":{"tau":0}}]}', 'tau=0'),
        ('{"parts":[{"module":"","layers":["1"],"options":{"sign":"os.system"}}]}', 'os.system'),
    ],
)
def test_a_file_that_names_other_layers_or_options(content, words, tmp_path):
    from safetensors.torch import load_file, save_file

    path = tmp_path / 'net.safetensors'
    pack(binarized(), path)
    tensors, metadata = load_file(path), {**read_packed(path)[1], 'binarized': content}
    metadata['sha256'] = checksum(tensors, metadata)  # as an attacker would
    save_file(tensors, path, metadata)
    with pytest.raises(PackError, match=words):
        load_packed(path, Plain())


def test_options_that_are_modules_are_not_stored(tmp_path):
    model = binarized(sign=mmesbnn.binary.QuadraticSign())
    pack(model, tmp_path / 'net.safetensors')
    with pytest.raises(PackError, match='no binary layer'):
        load_packed(tmp_path / 'net.safetensors', Plain())


# what cannot be unpacked ----------------------------------------------------------
