"""The network classes that a config in a file may build include all of ours."""

import copy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TASK_UTILS

import mmesbnn  # noqa: F401
from mmesbnn.analysis import build_model
from mmesbnn.deploy import load_packed, pack
from mmesbnn.deploy.packed.checked_config import checked, names_only
from mmesbnn.deploy.packed.stored_components import LISTED
from mmesbnn.deploy.packed.stored_config import (
    ConfigError,
    from_json,
    kept_part,
    parse_text,
    to_json,
)
from mmesbnn.project import image_size, reads_rgb, scope_of
from tests.analysis.digits import set_temperature

pytest.importorskip('mmpretrain')

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
RECIPES = [
    path.relative_to(CONFIGS).as_posix()
    for path in sorted(CONFIGS.rglob('*.py'))
    if path.parent.name != '_base_'
]
#: Components of this package that no file may name, and why.
UNLISTED = {
    'DistillClassifier'  # it reads teachers; a file gets the plain classifier
}

PLAIN = dict(
    default_scope='mmpretrain',
    model=dict(
        type='ImageClassifier',
        backbone=dict(type='BNext', arch='tiny', tau=2),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=8),
    ),
    data_preprocessor=dict(mean=[1.0], std=[2.0], to_rgb=True),
    test_dataloader=dict(
        batch_size=2,
        dataset=dict(
            type='CustomDataset',
            data_root='/home/somebody',
            metainfo=dict(classes=('a', 'b', 'c')),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='ResizeEdge', scale=8, edge='short'),
                dict(type='PackInputs'),
            ],
        ),
    ),
)


def changed(path, value):
    """Return the plain config with one entry added or changed."""
    config = copy.deepcopy(PLAIN)
    *parents, last = path.split('.')
    part = config
    for name in parents:
        part = part[int(name)] if isinstance(part, list) else part[name]
    part[last] = value
    return config


def stored(cfg, way):
    """Return a config in the form of a checkpoint or a packed file."""
    if way == 'text':
        return parse_text(cfg.pretty_text)
    return from_json(to_json(kept_part(cfg.to_dict())))


@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_is_accepted(name):
    if 'det' in name or 'mini_voc' in name:
        pytest.importorskip('mmdet')
        pytest.importorskip('mmcv.ops')
    cfg = Config.fromfile(CONFIGS / name)
    for way in ('text', 'json'):
        part = checked(stored(cfg, way))
        assert 'teachers' not in part['model']
        assert 'init_cfg' not in str(part['model'])
        assert 'data_root' not in str(part)


def test_all_own_components_are_listed():
    own = {
        name
        for registry in (MODELS, TASK_UTILS, DATASETS)
        for name, component in registry.module_dict.items()
        if component.__module__.startswith('mmesbnn.')
    }
    listed = LISTED['model']['mmesbnn'] | LISTED['dataset']['mmesbnn']
    assert own - UNLISTED == listed


def test_what_is_kept():
    part = checked(PLAIN)
    dataset = PLAIN['test_dataloader']['dataset']
    assert part['model'] == PLAIN['model']
    assert part['data_preprocessor'] == PLAIN['data_preprocessor']
    assert part['test_dataloader'] == dict(
        dataset=dict(metainfo=dataset['metainfo'], pipeline=dataset['pipeline'])
    )


def test_what_is_kept_of_data_sets_inside_of_others():
    dataset, expected = PLAIN['test_dataloader']['dataset'], checked(PLAIN)
    joined = dict(type='ConcatDataset', datasets=[dataset, dict(type='CIFAR10', pipeline=[])])
    for outer in (joined, dict(type='RepeatDataset', dataset=joined, times=2)):
        assert checked(changed('test_dataloader.dataset', outer)) == expected
    for broken in ([], [3], 3, None):
        part = checked(changed('test_dataloader.dataset', {**joined, 'datasets': broken}))
        assert part['test_dataloader']['dataset'] == dict(metainfo={}, pipeline=[])


def test_what_data_sets_say_about_images_is_kept():
    config = changed(
        'test_dataloader.dataset', dict(type='CIFAR10', pipeline=[dict(type='PackInputs')])
    )
    crop = dict(type='RandomCrop', crop_size=(24, 32))
    config['train_dataloader'] = dict(dataset=dict(pipeline=[crop]))
    part = checked(config)
    assert part['test_images'] == dict(rgb=True, size=(24, 32))
    assert image_size(Config(part)) == (24, 32)
    assert reads_rgb(part, dict(to_rgb=False))
    assert checked(part)['test_images'] == part['test_images']
    # what the pipeline of the test data says is not said twice
    assert 'test_images' not in checked(PLAIN)


@pytest.mark.parametrize('size', [(-1, 4), (1,), 'x', None, [1, 'x'], (0, 0)], ids=str)
def test_a_wrong_size_of_images_is_left_out(size):
    config = changed('test_images', dict(size=size))
    config['test_dataloader']['dataset']['pipeline'] = []
    assert 'test_images' not in checked(config)
    for broken in ('x', [], dict(dataset=3), dict(dataset=dict(pipeline=[3]))):
        assert 'test_images' not in checked({**config, 'train_dataloader': broken})


def test_class_names_of_a_listed_data_set():
    config = changed('test_dataloader.dataset', dict(type='CIFAR10', pipeline=[]))
    metainfo = checked(config)['test_dataloader']['dataset']['metainfo']
    assert metainfo['classes'][0] == 'airplane'
    config['test_dataloader']['dataset']['type'] = 'NoSuchDataset'
    assert checked(config)['test_dataloader']['dataset']['metainfo'] == {}


def test_class_names_beside_other_meta_data():
    dataset = dict(type='CIFAR10', metainfo=dict(palette=[(1, 2, 3)]), pipeline=[])
    config = changed('test_dataloader.dataset', dataset)
    metainfo = checked(config)['test_dataloader']['dataset']['metainfo']
    assert metainfo['palette'] == [(1, 2, 3)] and metainfo['classes'][0] == 'airplane'
    config['test_dataloader']['dataset']['classes'] = ['a', 'b', 'c']
    metainfo = checked(config)['test_dataloader']['dataset']['metainfo']
    assert metainfo == dict(palette=[(1, 2, 3)], classes=['a', 'b', 'c'])


def test_classes_of_a_config_in_pure_python():
    config = changed('model.type', 'mmpretrain.models.classifiers.ImageClassifier')
    config['model']['backbone']['type'] = 'mmesbnn.models.backbones.BNext'
    dataset = config['test_dataloader']['dataset']
    dataset['pipeline'] = [dict(type='mmcv.transforms.LoadImageFromFile')]
    part = checked(config)
    assert part['model']['type'] == 'mmpretrain.ImageClassifier'
    assert part['model']['backbone']['type'] == 'BNext'
    found = part['test_dataloader']['dataset']['pipeline']
    assert found == [dict(type='LoadImageFromFile')]
    config = changed(
        'test_dataloader.dataset', dict(type='mmpretrain.datasets.CIFAR10', pipeline=[])
    )
    assert checked(config)['test_dataloader']['dataset']['metainfo']['classes'][0] == 'airplane'


EVIL = dict(type='os.system', command='true')


@pytest.mark.parametrize(
    ('path', 'value', 'told'),
    [
        ('model.type', 'os.system', 'is not a component'),
        ('model.type', 'antigravity', 'is not a component'),
        ('model.type', 'mmpretrain.models.os.system', 'is not a component'),
        ('model.type', 'mmengine.fileio.get', 'is not a component'),
        ('model.type', ['ImageClassifier'], 'is not a component'),
        ('model.type', 'TimmClassifier', 'is not a component'),
        ('model.type', 'mmpretrain.HuggingFaceClassifier', 'is not a component'),
        ('model.type', 'mmseg.VPD', 'is not a component'),
        ('model.head.class_weight', 'weights', 'must be a list'),
        ('model.head.type', 'VQAGenerationHead', 'is not a component'),
        ('model.head.type', 'ArcFaceClsHead', 'is not a component'),
        ('model.head.loss', EVIL, 'is not a component'),
        ('model.head.loss', [(EVIL,)], 'is not a component'),
        ('model.head.loss', dict(a=dict(b=[EVIL])), 'is not a component'),
        ('model.backbone.norm_cfg', dict(type='torch.load'), 'is not a component'),
        # it copies a config as often as a number says, before it builds anything
        ('model.neck.type', 'TransformerLayerSequence', 'is not a component'),
        ('model.pretrained', 'x', 'must be left out'),
        ('model.backbone.checkpoint', 'x', 'must be left out'),
        ('model.trust_remote_code', True, 'must be left out'),
        ('model.head.margins', '/etc/passwd', 'must be a word'),
        ('model.head.margins', 'margins.txt', 'must be a word'),
        ('model.head.margins', 'http://example.org', 'must be a word'),
        ('model.head.margins', '__import__("os")', 'must be a word'),
        ('model.head.margins', '..', 'must be a word'),
        ('model._delete_', True, 'name of an argument'),
        ('model.backbone._base_', 'x', 'name of an argument'),
        ('model.backbone._scope_', 'evil', 'must be one of'),
        ('data_preprocessor.type', 'os.system', 'is not a component'),
        ('data_preprocessor', 'x', 'must be a dict'),
        ('default_scope', 'evil', 'must be one of'),
        ('default_scope', ['mmdet'], 'must be one of'),
        ('test_dataloader.dataset.metainfo', dict(classes='x'), 'dict of lists'),
        ('test_dataloader.dataset.pipeline', [EVIL], 'is not a component'),
        ('test_dataloader.dataset.pipeline', 'x', 'must be a list'),
        (
            'test_dataloader.dataset.pipeline',
            [dict(type='torchvision/ConvertImageDtype', dtype='float')],
            'is not a component',
        ),
        (
            'test_dataloader.dataset.pipeline',
            [dict(type='LoadImageFromFile', backend_args=dict(backend='http'))],
            'must be the disk',
        ),
    ],
)
def test_what_is_refused(path, value, told):
    with pytest.raises(ConfigError, match=told) as caught:
        checked(changed(path, value))
    message = str(caught.value)
    assert '--trust-stored-config' in message and 'run code' in message
    assert '\n' not in message and len(message) < 600


@pytest.mark.parametrize('config', [{}, dict(model=3), dict(model={})])
def test_no_model(config):
    with pytest.raises(ConfigError, match='model'):
        checked(config)


def test_weights_come_from_the_file_and_not_from_init_cfg():
    evil = dict(type='Pretrained', checkpoint='http://example.org/x.pth')
    config = changed('model.backbone.init_cfg', evil)
    assert checked(config)['model'] == PLAIN['model']


def test_a_class_registered_under_a_listed_name(monkeypatch):
    class Impostor:
        pass

    monkeypatch.setitem(MODELS.module_dict, 'BNext', Impostor)
    with pytest.raises(ConfigError, match=r'BNext.*is not a component'):
        checked(PLAIN)


def test_names_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / 'NoSuchComponent.py').write_text('raise SystemExit')
    monkeypatch.syspath_prepend(tmp_path)
    with names_only(), pytest.raises(KeyError, match='NoSuchComponent'):
        MODELS.build(dict(type='NoSuchComponent'))
    assert 'NoSuchComponent' not in sys.modules
    # unchanged outside of the block
    assert MODELS.get('torch.nn.Identity') is not None


SEGMENTER = dict(
    default_scope='mmseg',
    model=dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32)),
        backbone=dict(
            type='BNext', arch=dict(channels=[8, 8, 16], depths=[1, 1]), tau=2, se_ratio=4
        ),
        decode_head=dict(
            type='FCNHead',
            in_channels=16,
            channels=8,
            in_index=0,
            num_convs=1,
            num_classes=3,
            norm_cfg=dict(type='BN'),
            loss_decode=dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 1.0]),
        ),
        test_cfg=dict(mode='whole'),
    ),
    test_dataloader=dict(
        dataset=dict(
            type='CityscapesDataset',
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='Resize', scale=(32, 32)),
                dict(type='LoadAnnotations'),
                dict(type='PackSegInputs'),
            ],
        )
    ),
)


@pytest.mark.skipif(find_spec('mmseg') is not None, reason='mmseg is installed')
def test_without_mmseg_its_scope_says_how_to_install_it():
    with pytest.raises(ImportError, match=r'needs mmseg.*pip install mmsegmentation'):
        checked(SEGMENTER)


def test_a_segmenter_is_built(tmp_path):
    pytest.importorskip('mmseg')
    cfg = Config(copy.deepcopy(SEGMENTER))
    assert checked(SEGMENTER)['test_dataloader']['dataset']['metainfo']['classes'][0] == 'road'
    with scope_of(cfg):
        model = set_temperature(build_model(cfg).eval(), 0.0)
    pack(model, tmp_path / 'net.safetensors', config=cfg)
    loaded = load_packed(tmp_path / 'net.safetensors')
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    for kind in ('mmseg.VPD', 'mmseg.BEiT', 'mmseg.SAN'):
        other = copy.deepcopy(SEGMENTER)
        other['model']['backbone'] = dict(type=kind)
        with pytest.raises(ConfigError, match='is not a component'):
            checked(other)
