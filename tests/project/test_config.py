"""Models, sizes, weights and batches of configs."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import DATASETS
from torch import nn

from mmesbnn.analysis import (
    InputError,
    build_model,
    image_size,
    input_shape,
    load_config,
    load_weights,
    real_batch,
)
from mmesbnn.project import class_names, dataset_meta, explained, reads_rgb
from mmesbnn.project import testing_pipeline as transforms_of
from tests.analysis.digits import write_project


def test_options_change_entries(tmp_path):
    config = write_project(tmp_path)
    cfg = load_config(config, {'model.backbone.tau': 1})
    assert build_model(cfg).backbone.expansion.tau == 1


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'config.py')
    with pytest.raises(InputError, match=r'config\.py: a named pipe, not a file'):
        load_config(tmp_path / 'config.py')


def test_images_are_normalised_as_in_training(tmp_path):
    cfg = load_config(write_project(tmp_path))
    preprocessor = build_model(cfg).data_preprocessor
    assert preprocessor.mean.flatten().tolist() == [127.5] * 3
    assert 'data_preprocessor' not in cfg.model


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('model = dict(', 'cannot read the config'),
        ('x = 1', 'has no model'),
        ('default_scope = 5\nmodel = dict()', 'default_scope=5 must be a text or None'),
        ("custom_imports = dict(imports=['no_such_package'])\nmodel = dict()", 'no_such'),
    ],
)
def test_unusable_configs(tmp_path, text, words):
    config = tmp_path / 'config.py'
    config.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        load_config(config)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('name', 'text', 'found'),
    [('a.yaml', '', 'None'), ('a.json', 'null', 'None'), ('a.yml', '- 1', r'\[1\]')],
)
def test_files_without_entries(tmp_path, name, text, found):
    config = tmp_path / name
    config.write_text(text)
    with pytest.raises(InputError, match=f'{name}: it holds {found}, not a dict$'):
        load_config(config)


def test_unknown_model(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("model = dict(type='NoSuchModel')")
    with pytest.raises(InputError, match=r'cannot build the model: .*NoSuchModel'):
        build_model(load_config(config))


def test_teachers_are_neither_built_nor_counted(tmp_path):
    config = write_project(tmp_path)
    model = {'type': 'DistillClassifier', 'teachers': dict(main=dict(model='no-such-teacher'))}
    plain = build_model(load_config(config))
    student = build_model(load_config(config, {'model': model}))
    assert type(student) is type(plain)
    assert student.state_dict().keys() == plain.state_dict().keys()


def sizes(*transforms, split='test', **others):
    loader = dict(dataset=dict(type='A', pipeline=[dict(type='Load'), *transforms]))
    return image_size(Config({f'{split}_dataloader': loader, **others}))


def test_image_size_is_read_from_the_pipelines():
    edge, crop = (dict(type='ResizeEdge', scale=235), dict(type='CenterCrop', crop_size=224))
    assert sizes(edge, crop) == (224, 224)
    assert sizes(edge) == (235, 235)
    assert sizes(dict(type='mmdet.Resize', scale=(1333, 800))) == (800, 1333)
    assert sizes(crop, split='val') == (224, 224)
    assert sizes(dict(type='EfficientNetCenterCrop', crop_size=240)) == (240, 240)
    assert sizes(dict(type='EfficientNetRandomCrop', scale=240), split='train') == (240, 240)
    assert sizes(dict(type='mmdet.FixScaleResize', scale=(1333, 800))) == (800, 1333)
    # CIFAR: test images are not changed, training images are cropped to their size
    assert sizes(dict(type='RandomCrop', crop_size=32), split='train') == (32, 32)
    wrapped = dict(type='Repeat', dataset=dict(type='A', pipeline=[crop]))
    assert image_size(Config(dict(test_dataloader=dict(dataset=wrapped)))) == (224, 224)
    assert sizes() is None
    assert image_size(Config({})) is None


def test_image_size_has_the_order_of_the_transform():
    # mmpretrain's crops take height and width, all other transforms width and height
    size = (48, 64)
    for kind in ('RandomCrop', 'mmpretrain.RandomCrop', 'RandomResizedCrop'):
        name = 'scale' if 'Resized' in kind else 'crop_size'
        found = sizes(dict(type=kind, **{name: size}), split='train', default_scope='mmpretrain')
        assert found == (48, 64), kind
    for kind, scope in (('RandomCrop', 'mmdet'), ('mmdet.RandomCrop', 'mmpretrain')):
        crop = dict(type=kind, crop_size=size)
        assert sizes(crop, split='train', default_scope=scope) == (64, 48), kind
    assert sizes(dict(type='CenterCrop', crop_size=size)) == (64, 48)
    shares = dict(type='RandomCrop', crop_size=(0.5, 0.5), crop_type='relative')
    assert sizes(shares, default_scope='mmdet') is None


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize('kind', ['CIFAR10', 'mmpretrain.CIFAR100', 'CustomDataset'])
def test_the_order_of_channels_is_that_of_the_data_and_the_preprocessor(kind, wrapped):
    dataset = dict(type=kind, pipeline=[dict(type='PackInputs')])
    dataset = dict(type='RepeatDataset', dataset=dataset) if wrapped else dataset
    data = dict(test_dataloader=dict(dataset=dataset))
    assert reads_rgb(data, dict(to_rgb=False)) == ('CIFAR' in kind)
    assert reads_rgb(data, dict(to_rgb=True)) == ('CIFAR' not in kind)


def test_data_sets_inside_of_others():
    """The first one of a concatenation says what its images are."""
    crop = dict(type='CenterCrop', crop_size=32)
    parts = [
        dict(type='A', pipeline=[crop], metainfo=dict(classes=('cat', 'dog'))),
        dict(type='B', pipeline=[]),
    ]
    joined = dict(type='ConcatDataset', datasets=parts)
    for dataset in (joined, dict(type='RepeatDataset', dataset=joined, times=2)):
        cfg = Config(dict(test_dataloader=dict(dataset=dataset)))
        assert image_size(cfg) == (32, 32)
        assert transforms_of(cfg) == [crop]
        assert class_names(cfg) == ['cat', 'dog']
    cfg.test_dataloader.dataset.metainfo = dict(classes=('a', 'b'))
    assert class_names(cfg) == ['a', 'b']
    assert dataset_meta(Config(dict(test_dataloader=dict(dataset=dict(datasets=[]))))) == {}


def test_input_shape():
    cfg = Config(dict(model=dict(backbone=dict(in_channels=1))))
    assert input_shape(cfg) == (1, 224, 224)
    assert input_shape(cfg, (32, 48)) == (1, 32, 48)
    within = dict(type='BinaryTransformer', backbone=dict(type='VisionTransformer', in_channels=1))
    assert input_shape(Config(dict(model=dict(backbone=within)))) == (1, 224, 224)
    assert input_shape(Config(dict(model=within))) == (1, 224, 224)


@pytest.mark.parametrize('side', [2**14, 2**40])
def test_the_size_in_a_config_is_limited(side):
    crop = dict(type='CenterCrop', crop_size=side)
    for more in (dict(test_pipeline=[crop]), dict(test_images=dict(size=[side, side]))):
        cfg = Config(dict(model=dict(type='x'), **more))
        with pytest.raises(InputError, match=f'images of {side} x {side} pixels: must be at most'):
            input_shape(cfg)
        assert input_shape(cfg, (32, 48)) == (3, 32, 48)


def test_real_batch(tmp_path):
    cfg = load_config(write_project(tmp_path))
    batch = real_batch(cfg, 5)
    assert len(batch['inputs']) == len(batch['data_samples']) == 5
    assert batch['inputs'][0].shape == (3, 16, 20)
    assert len(real_batch(cfg, 500)['inputs']) == 12
    cfg.test_dataloader = None
    with pytest.raises(InputError, match='neither a test_dataloader nor'):
        real_batch(cfg, 5)


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc = nn.Linear(width, 2)
        self.norm = nn.BatchNorm1d(2)


@pytest.mark.parametrize('wrap', ['bare', 'mmengine', 'parallel'])
def test_load_weights(tmp_path, wrap):
    path, net, other = tmp_path / 'a.pth', Net(), Net()
    state = net.state_dict()
    if wrap == 'parallel':
        state = {f'module.{name}': value for name, value in state.items()}
    torch.save(state if wrap == 'bare' else {'state_dict': state, 'meta': {}}, path)
    load_weights(other, path)
    assert torch.equal(other.fc.weight, net.fc.weight)


def test_mmengine_checkpoints_hold_more_than_tensors(tmp_path):
    path, net = tmp_path / 'a.pth', Net()
    logged = {'log_scalars': {'loss': HistoryBuffer([1.0, 2.0], [1, 1])}}
    torch.save({'state_dict': net.state_dict(), 'message_hub': logged}, path)
    load_weights(Net(), path)


class Payload:
    """Not a tensor."""


def as_type(state, dtype):
    return {**state, 'fc.weight': state['fc.weight'].to(dtype)}


def broken_files():
    good = Net().state_dict()
    lacking = {name: v for name, v in good.items() if not name.startswith('norm')}
    return {
        'text': ('hello', 'truncated, damaged or no file of torch.save'),
        'empty': ('', 'is empty'),
        'object': ({'state_dict': good, 'x': Payload()}, 'holds the object .*Payload, and only'),
        'nothing': ({'meta': 1}, "holds no state dict: 'meta' is a int"),
        'number': (3, 'holds no state dict but a int'),
        'list': ({'state_dict': [1]}, 'holds no state dict but a list'),
        'none': ({'state_dict': None}, 'holds no state dict but a NoneType'),
        'keys': ({'state_dict': {0: torch.ones(1)}}, '0 is a Tensor'),
        'bool': (as_type(good, torch.bool), r'have another type \(fc.weight: torch.bool'),
        'shape': (Net(5).state_dict(), r'1 have another shape \(fc.weight: '),
        'lacking': (lacking, r'are missing \(norm.weight, norm.bias, '),
        'other': ({**good, 'extra': torch.ones(1)}, r'1 are unknown \(extra\)'),
    }


@pytest.mark.parametrize('name', list(broken_files()))
def test_files_that_are_not_the_models_weights(tmp_path, name):
    content, words = broken_files()[name]
    path = tmp_path / 'a.pth'
    if isinstance(content, str):
        path.write_text(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=words) as caught:
        load_weights(Net(), path)
    assert '\n' not in str(caught.value)


def test_truncated_and_missing_files(tmp_path):
    path = tmp_path / 'a.pth'
    with pytest.raises(InputError, match='No such file'):
        load_weights(Net(), path)
    with pytest.raises(InputError, match='cannot read the checkpoint'):
        load_weights(Net(), tmp_path)
    for legacy in (False, True):
        torch.save(Net().state_dict(), path, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        for size in (10, len(whole) // 2, len(whole) - 10):
            path.write_bytes(whole[:size])
            with pytest.raises(InputError, match=r'truncated|ends too early'):
                load_weights(Net(), path)


@pytest.mark.parametrize('several', [False, True])
@pytest.mark.parametrize('split', ['test', 'val'])
def test_names_of_the_classes_of_test_or_validation_data(split, several):
    loader = dict(dataset=dict(type='Any', metainfo=dict(classes=('cat', 'dog'))))
    cfg = Config({f'{split}_dataloader': [loader, {}] if several else loader})
    assert dataset_meta(cfg) == dict(classes=('cat', 'dog'))
    assert class_names(cfg) == ['cat', 'dog']


@pytest.mark.parametrize(
    ('dataset', 'names'),
    [
        (dict(metainfo=dict(classes='names.txt')), ['cat', 'dog', 'eel']),
        (dict(classes='names.txt'), ['cat', 'dog', 'eel']),
        (dict(classes=['a', 'b', 'c']), ['a', 'b', 'c']),
        (dict(classes=['a', 'b', 'c'], metainfo=dict(palette=[])), ['a', 'b', 'c']),
        (dict(metainfo=dict(classes='person')), ['person']),
        (dict(metainfo=dict(palette=[(0, 0, 0)])), [f'class {i}' for i in range(4)]),
    ],
)
def test_names_as_data_sets_take_them(dataset, names, tmp_path, monkeypatch):
    class Fours:
        METAINFO = dict(classes=[f'class {i}' for i in range(4)])

    monkeypatch.setitem(DATASETS.module_dict, 'Fours', Fours)
    monkeypatch.chdir(tmp_path)
    Path('names.txt').write_text('cat\ndog\neel\n')
    loader = dict(dataset=dict(type='Fours', **dataset))
    model = dict(bbox_head=dict(num_classes=len(names)))
    assert class_names(Config(dict(model=model, test_dataloader=loader))) == names


def test_a_file_of_names_in_another_encoding_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('names.txt').write_bytes('Löwe\nHäuser\n'.encode('latin-1'))
    loader = dict(dataset=dict(type='Any', metainfo=dict(classes='names.txt')))
    with pytest.raises(InputError, match=r"classes='names\.txt' must be a file of text in UTF-8"):
        dataset_meta(Config(dict(test_dataloader=loader)))


def test_a_wrong_number_of_names_gives_one_warning():
    dataset = dict(type='Any', metainfo=dict(classes=('cat', 'dog')))
    cfg = Config(dict(model=dict(head=dict(num_classes=3)), test_dataloader=dict(dataset=dataset)))
    with pytest.warns(UserWarning, match='2 names .* num_classes=3') as caught:
        assert class_names(cfg) is None
    assert len(caught) == 1


@pytest.mark.parametrize(
    ('error', 'told'),
    [
        (OSError(28, 'No space left on device'), 'it: [Errno 28] No space left on device'),
        (OSError(2, 'No such file', 'a.png'), 'it: No such file: a.png'),
        (KeyError('no class A'), 'it: no class A'),
    ],
)
def test_an_explained_error_is_one_sentence(error, told):
    with pytest.raises(InputError) as caught, explained('it'):
        raise error
    assert str(caught.value) == told


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='the system has no named pipes')
def test_a_pipe_is_no_file_of_names(tmp_path, monkeypatch):
    pipe = tmp_path / 'names'
    os.mkfifo(pipe)
    monkeypatch.setattr('mmesbnn.project.data.list_from_file', lambda file: ['waited'])
    cfg = Config(
        dict(test_dataloader=dict(dataset=dict(type='Any', metainfo=dict(classes=str(pipe)))))
    )
    assert dataset_meta(cfg)['classes'] == str(pipe)
