"""Folders of unknown sources: nothing in them is run, and nothing outside of them is read."""

import json
import os
import pickle
import threading

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mmesbnn
from mmesbnn.errors import MmesbnnError
from mmesbnn.pretrained import PretrainedError
from tests.pretrained.networks import BACKBONE, SHAPE, backbone

#: Errors that a user can understand; their message is one short sentence.
REFUSED = (MmesbnnError, OSError)


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp('original') / 'net'
    torch.manual_seed(0)
    mmesbnn.save_pretrained(backbone(), folder, config=BACKBONE, input_shape=SHAPE)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A folder that a test may damage; the current folder, where traps lie, is another one."""
    copy = tmp_path / 'net'
    copy.mkdir()
    for file in original.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture(autouse=True)
def trap(tmp_path, monkeypatch):
    """A module in the current folder that leaves a file when it is imported."""
    (tmp_path / 'trap.py').write_text(
        f'from pathlib import Path\nPath({str(tmp_path / "sprung")!r}).touch()\n'
        'class Net:\n    def __init__(self, **kwargs): pass\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert not (tmp_path / 'sprung').exists()


def refused(folder, match, **options):
    with pytest.raises(REFUSED, match=match) as caught:
        mmesbnn.from_pretrained(folder, **options)
    assert len(str(caught.value)) < 2000 and '\n' not in str(caught.value)


def change(folder, edit):
    content = json.loads((folder / 'config.json').read_text())
    edit(content)
    (folder / 'config.json').write_text(json.dumps(content))


@pytest.mark.parametrize(
    'kind',
    [
        'trap.Net',
        'os.system',
        'builtins.exec',
        'torch.load',
        'mmesbnn.binary.binarize',
        'torch.hub.load',
        'mmpretrain.HuggingFaceClassifier',
        'TIMMBackbone',
        ['BNext'],
        {'type': 'BNext'},
        None,
        7,
    ],
)
def test_a_foreign_class_is_not_built(folder, kind):
    change(folder, lambda content: content['config']['model'].update(type=kind))
    refused(folder, 'not a component that a file may name')


@pytest.mark.parametrize('place', ['norm_cfg', 'conv_cfg', 'act_cfg'])
def test_a_foreign_class_inside_is_not_built(folder, place):
    change(folder, lambda content: content['config']['model'].update({place: {'type': 'trap.Net'}}))
    refused(folder, 'not a component that a file may name')


@pytest.mark.parametrize(
    'entry',
    [
        {'init_cfg': {'type': 'Pretrained', 'checkpoint': 'https://example.org/x.pth'}},
        {'pretrained': '/etc/passwd'},
        {'pretrained': 'torchvision://resnet50'},
        {'arch': '/etc/passwd'},
        {'arch': 'https://example.org/x'},
        {'_scope_': 'trap'},
        {'__class__': 'trap'},
    ],
)
def test_paths_and_addresses_are_not_opened(folder, entry, monkeypatch):
    monkeypatch.setattr('torch.hub.download_url_to_file', lambda *args, **kwargs: pytest.fail())
    change(folder, lambda content: content['config']['model'].update(entry))
    if 'init_cfg' in entry:  # ignored, because the weights come from the file
        mmesbnn.from_pretrained(folder)
    else:
        refused(folder, 'stored config|cannot build')


def test_modules_to_import_are_not_imported(folder):
    change(folder, lambda c: c['config'].update(custom_imports={'imports': ['trap']}))
    change(folder, lambda c: c['config'].update(default_scope='mmengine'))
    mmesbnn.from_pretrained(folder)
    change(folder, lambda c: c['config'].update(default_scope='trap'))
    refused(folder, 'default_scope')


@pytest.mark.parametrize(
    ('text', 'match'),
    [
        ('', 'no JSON'),
        ('[]', 'not a dict'),
        ('{}', 'library_name must be'),
        ('{"library_name": "diffusers"}', "library_name must be 'mmesbnn'"),
        ('{"library_name": "mmesbnn", "config": 3}', 'not a dict'),
        ('{"library_name": "mmesbnn", "config": {}}', 'no model'),
        ('{"library_name": "mmesbnn", "config": {"model": []}}', 'no model'),
        ('{"library_name": "mmesbnn", "dataset_meta": []}', 'not a dict'),
        ('{"library_name": "mmesbnn"', 'no JSON'),
        ('{"a": ' * 10**5, 'no JSON|deep'),
        ('{"library_name": "mmesbnn", "config": ' + '[' * 60 + ']' * 60 + '}', 'deep'),
        ('{"library_name": "mmesbnn", "a": "' + 'x' * 2**21 + '"}', 'characters'),
        ('{"library_name": "mmesbnn", "a": ' + '9' * 5000 + '}', 'JSON|63 bits'),
        ('{"library_name": "mmesbnn", "config": {"model": {"type": "BNext", "arch": {"channels":'
         ' [16, 32, 64]}, "tau": 1e400}}}', 'tau|network'),
    ],
)  # fmt: skip
def test_a_damaged_config_is_refused(folder, text, match):
    (folder / 'config.json').write_text(text)
    refused(folder, match)


def test_a_config_that_is_no_text_is_refused(folder):
    (folder / 'config.json').write_bytes(b'\xff\xfe\x00')
    refused(folder, 'not text')


def test_a_config_of_a_huge_network_takes_no_memory(folder):
    wide = [2**14, 2**15, 2**16]
    change(folder, lambda c: c['config']['model'].update(arch={'channels': wide}))
    refused(folder, 'more than .* bytes, but its weights are')


def test_a_config_of_another_network_is_refused(folder):
    change(folder, lambda c: c['config']['model'].update(tau=1))
    refused(folder, 'not of this network|does not fit the network')


def test_a_huge_declared_tensor_takes_no_memory(folder):
    header = {'uint8': {'dtype': 'U8', 'shape': [2**50], 'data_offsets': [0, 2**50]}}
    text = json.dumps(header).encode()
    (folder / 'model.safetensors').write_bytes(len(text).to_bytes(8, 'little') + text)
    refused(folder, 'do not fit')


def test_a_huge_declared_header_takes_no_memory(folder):
    (folder / 'model.safetensors').write_bytes((2**62).to_bytes(8, 'little') + b'{}')
    refused(folder, 'truncated')


def test_a_header_over_the_limit_is_refused(folder):
    refused(folder, 'max_bytes', max_bytes=100)


def test_other_safetensors_are_refused(folder):
    save_file({'a': torch.ones(2)}, folder / 'model.safetensors')
    refused(folder, 'not a packed network')


def test_changed_weights_are_noticed(folder):
    path = folder / 'model.safetensors'
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors['float32'][0] += 1
    save_file(tensors, path, metadata)
    refused(folder, 'checksum')


class Bomb:
    """Write a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ('touch sprung',)


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin', 'config.json'])
def test_pickles_are_not_loaded(folder, name):
    if name == 'pytorch_model.bin':
        (folder / 'model.safetensors').unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    refused(folder, 'model.safetensors|config.json')


def test_other_files_are_not_read(folder):
    for name in ('pytorch_model.bin', 'modeling.py', '__init__.py', 'setup.py', 'conftest.py'):
        (folder / name).write_bytes(b'import trap\n')
    (folder / 'README.md').write_text('---\na: !!python/object/apply:os.system [touch sprung]\n---')
    mmesbnn.from_pretrained(folder)


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_a_link_out_of_the_folder_is_not_followed(folder, name, tmp_path):
    (folder / name).rename(tmp_path / 'outside')
    (folder / name).symlink_to(tmp_path / 'outside')
    refused(folder, 'a link out of the folder is not followed')


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_a_link_by_way_of_a_folder_is_not_followed(folder, name, tmp_path):
    (tmp_path / 'other').mkdir()
    (folder / name).rename(tmp_path / 'other' / 'file')
    (folder / 'way').symlink_to(tmp_path / 'other')
    (folder / name).symlink_to('way/file')
    refused(folder, 'a link out of the folder is not followed')


def test_a_link_inside_the_folder_is_followed(folder):
    (folder / 'model.safetensors').rename(folder / 'weights')
    (folder / 'model.safetensors').symlink_to('weights')
    mmesbnn.from_pretrained(folder)


def test_a_link_to_the_folder_itself_is_followed(folder, tmp_path):
    (tmp_path / 'link').symlink_to(folder)
    mmesbnn.from_pretrained(tmp_path / 'link')


def test_a_folder_that_looks_like_a_cache_opens_its_blobs_only(folder, tmp_path):
    cache = tmp_path / 'models--me--net'
    (cache / 'snapshots').mkdir(parents=True)
    (cache / 'blobs').mkdir()
    folder = folder.rename(cache / 'snapshots' / 'abc')
    file = folder / 'model.safetensors'
    file.rename(cache / 'blobs' / 'x')
    file.symlink_to('../../blobs/x')
    mmesbnn.from_pretrained(folder)
    file.unlink()
    (cache / 'blobs' / 'x').rename(cache / 'x')
    file.symlink_to('../../x')
    refused(folder, 'a link out of the folder is not followed')


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
@pytest.mark.parametrize('kind', ['pipe', 'folder', 'device', 'dangling', 'circle'])
def test_other_things_than_files_are_refused(folder, name, kind):
    path = folder / name
    path.unlink()
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    else:
        path.symlink_to({'device': '/dev/zero', 'dangling': 'nowhere', 'circle': name}[kind])
    done = threading.Event()
    watch = threading.Timer(60, lambda: None if done.is_set() else os._exit(3))
    watch.start()
    try:
        refused(folder, name)
    finally:
        done.set()
        watch.cancel()


def test_a_file_is_no_folder(folder):
    with pytest.raises(FileNotFoundError, match=r'model\.safetensors: a file, not a folder'):
        mmesbnn.from_pretrained(folder / 'model.safetensors')


def test_trust_is_what_builds_a_foreign_class(folder):
    change(folder, lambda content: content['config']['model'].update(type='trap.Net'))
    refused(folder, 'trust_stored_config=True')


def test_weights_for_a_created_model_are_checked_as_well(folder, tmp_path):
    pytest.importorskip('mmpretrain')
    (folder / 'model.safetensors').rename(tmp_path / 'outside')
    (folder / 'model.safetensors').symlink_to(tmp_path / 'outside')
    small = dict(arch=dict(channels=[16, 16, 32], depths=[1, 1]), features_only=True)
    with pytest.raises(PretrainedError, match='a link out of the folder'):
        mmesbnn.create_model('bnext-18_b512_cifar10', pretrained=folder, **small)
    (tmp_path / 'bomb.pth').write_bytes(pickle.dumps({'state_dict': Bomb()}))
    with pytest.raises(PretrainedError, match=r'bomb\.pth'):
        mmesbnn.create_model('bnext-18_b512_cifar10', pretrained=tmp_path / 'bomb.pth', **small)
