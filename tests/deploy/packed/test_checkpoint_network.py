"""Networks of checkpoints, and of packed files with a config."""

import copy
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from torch import nn

from mmesbnn.analysis import InputError, build_model, load_config
from mmesbnn.deploy import PackError, load_packed, pack, pack_checkpoint
from mmesbnn.deploy.packed.file import read_packed
from mmesbnn.deploy.packed.layout import checksum
from tests.analysis.digits import write_project
from tests.deploy.packed.nets import shaken
from tests.managers import forget_runners

pytest.importorskip('safetensors')


@pytest.fixture
def classifier(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = load_config(write_project(tmp_path))
    return cfg, shaken(build_model(cfg))


def test_a_classifier_comes_back_whole(classifier, tmp_path, monkeypatch):
    from mmpretrain import ImageClassificationInferencer

    cfg, model = classifier
    meta = {'classes': ('null', 'eins', 'zwei')}
    path = tmp_path / 'net.safetensors'
    pack(model, path, config=cfg, dataset_meta=meta)
    # for any current scope
    forget_runners(monkeypatch)
    loaded = load_packed(path)
    images = [str(file) for file in sorted(tmp_path.glob('val/*/*.png'))[:4]]
    model._config, model._dataset_meta = cfg, meta
    ours = ImageClassificationInferencer(model)(images)
    theirs = ImageClassificationInferencer(loaded)(images)
    for one, other in zip(ours, theirs):
        np.testing.assert_array_equal(one['pred_scores'], other['pred_scores'])
        assert one['pred_class'] == other['pred_class']
        assert other['pred_class'] in meta['classes']


def test_names_that_the_data_set_knows_are_left_out(classifier, tmp_path):
    cfg, model = classifier
    cfg.test_dataloader.dataset = dict(type='ImageNet', pipeline=[])
    with DATASETS.switch_scope_and_registry('mmpretrain') as registry:
        meta = registry.get('ImageNet').METAINFO
    path = tmp_path / 'net.safetensors'
    pack(model, path, config=cfg, dataset_meta=meta)
    assert 'dataset_meta' not in read_packed(path)[1]
    assert load_packed(path)._dataset_meta == meta


@pytest.mark.parametrize('given', ['val_dataloader', 'test_pipeline'])
def test_transforms_of_a_config_without_test_data(given, classifier, tmp_path):
    cfg, model = classifier
    pipeline = list(cfg.test_dataloader.dataset.pipeline)
    data = dict(val_dataloader=cfg.test_dataloader, test_pipeline=pipeline)
    cfg = Config(dict(default_scope='mmpretrain', model=cfg.model, **{given: data[given]}))
    path, checkpoint = tmp_path / 'net.safetensors', tmp_path / 'net.pth'
    torch.save(dict(meta=dict(cfg=cfg.pretty_text), state_dict=model.state_dict()), checkpoint)
    pack(model, path, config=cfg)
    for trust in (False, True):
        assert load_packed(path, trust_stored_config=trust)._config.test_dataloader.dataset.pipeline
        pack_checkpoint(checkpoint, tmp_path / 'same.safetensors', trust_stored_config=trust)
        loaded = load_packed(tmp_path / 'same.safetensors')
        assert loaded._config.test_dataloader.dataset.pipeline == pipeline


@pytest.mark.parametrize(
    'dataset',
    [
        dict(classes='names.txt'),
        dict(metainfo=dict(classes='names.txt')),
        dict(metainfo=dict(classes=['cat', 'dog', 'eel'], origin='a text')),
        dict(type='RepeatDataset', dataset=dict(metainfo=dict(classes='names.txt'))),
        dict(type='ConcatDataset', datasets=[dict(classes='names.txt')]),
        dict(type='Threes'),
    ],
    ids=str,
)
def test_names_that_only_the_config_knows(dataset, classifier, tmp_path, monkeypatch):
    class Threes:
        METAINFO = dict(classes=['cat', 'dog', 'eel'])

    monkeypatch.setitem(DATASETS.module_dict, 'Threes', Threes)
    cfg, model = classifier
    cfg.test_dataloader = dict(dataset={'type': 'CustomDataset', **dataset})
    (tmp_path / 'names.txt').write_text('cat\ndog\neel\n')
    with monkeypatch.context() as there:
        there.chdir(tmp_path)
        pack(model, 'net.safetensors', config=cfg)
    loaded = load_packed(tmp_path / 'net.safetensors')
    assert loaded._dataset_meta == dict(classes=['cat', 'dog', 'eel'])


def test_what_a_config_may_not_build(classifier, tmp_path):
    from safetensors.torch import load_file, save_file

    cfg, model = classifier
    path, trace = tmp_path / 'net.safetensors', tmp_path / 'trace'
    pack(model, path, config=cfg)
    evil = {'model': {'type': 'os.mkdir', 'path': str(trace)}}
    metadata = {**read_packed(path)[1], 'config': json.dumps(evil)}
    tensors = load_file(path)
    metadata['sha256'] = checksum(tensors, metadata)  # as an attacker would
    save_file(tensors, path, metadata)
    with pytest.raises(PackError, match=r"type='os\.mkdir' .* is not a component"):
        load_packed(path)
    assert not trace.exists()
    # such a config is not packed either
    cfg.model.head = dict(type='os.mkdir')
    with pytest.raises(PackError, match=r"type='os\.mkdir'"):
        pack(model, path, config=cfg)


def test_a_network_that_is_too_large_for_the_weights(classifier, tmp_path):
    from safetensors.torch import load_file, save_file

    cfg, model = classifier
    path, large = tmp_path / 'net.safetensors', tmp_path / 'large.safetensors'
    pack(model, path, config=cfg)
    metadata, tensors = read_packed(path)[1], load_file(path)
    config = json.loads(metadata['config'])
    config['model']['head'] = dict(type='LinearClsHead', num_classes=2**22, in_channels=24)
    metadata['config'] = json.dumps(config)
    metadata['sha256'] = checksum(tensors, metadata)  # as an attacker would
    save_file(tensors, large, metadata)
    words = r'large\.safetensors: .*a network of more than \d+ bytes, but its weights are \d+'
    with pytest.raises(PackError, match=words):
        load_packed(large)
    with pytest.raises(PackError, match='is not of this network'):
        load_packed(large, max_bytes=2**30)  # a user who allows it gets the other reason
    state = dict(state_dict=model.state_dict())
    large = tmp_path / 'large.pth'
    torch.save({**state, 'meta': dict(model=config['model'])}, large)
    with pytest.raises(InputError, match=r'large\.pth.*a network of more than \d+ bytes'):
        pack_checkpoint(large, tmp_path / 'out.safetensors')


def test_a_type_that_is_not_registered(classifier, tmp_path):
    cfg, model = classifier
    cfg.model.neck = dict(type='MyOwnNeck')
    pack(model, tmp_path / 'net.safetensors', config=cfg)
    with pytest.raises(PackError, match=r'MyOwnNeck.*trust_stored_config=True'):
        load_packed(tmp_path / 'net.safetensors')
    with pytest.raises(PackError, match=r'cannot build the network: .*MyOwnNeck'):
        load_packed(tmp_path / 'net.safetensors', trust_stored_config=True)


class MyOwnHead(nn.Identity):
    """A component of a user's project."""


def test_own_components_need_trust_or_the_model(classifier, tmp_path):
    cfg, model = classifier
    path = tmp_path / 'net.safetensors'
    own = copy.deepcopy(cfg)
    own.model.neck = dict(type='MyOwnHead')
    pack(model, path, config=own)
    MODELS.register_module(module=MyOwnHead)
    try:
        with pytest.raises(PackError, match=r'MyOwnHead.*is not a component'):
            load_packed(path)
        loaded = load_packed(path, trust_stored_config=True)
    finally:
        MODELS.module_dict.pop('MyOwnHead')
    assert isinstance(loaded.neck, MyOwnHead)
    assert 'data_root' in loaded._config.test_dataloader.dataset
    load_packed(path, build_model(cfg))
