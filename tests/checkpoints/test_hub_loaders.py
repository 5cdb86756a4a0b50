"""Checkpoints from the web are read like local ones, and run no code."""

import functools
import http.server
import os
import sys
import threading
import types
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader, load_checkpoint, save_checkpoint
from mmengine.runner import checkpoint as zoos

from mmesbnn.checkpoints import CheckpointError, hub_loaders
from mmesbnn.checkpoints.limits import Budget
from tests.checkpoints.test_mmengine_loader import Reduced, assert_is_hub, load, message_hub


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Serve a folder; return it and its address. torch's cache is empty."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    folder = tmp_path / 'site'
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def write_real(path):
    """Write a checkpoint as mmengine publishes it."""
    network = torch.nn.Linear(2, 3)
    content = dict(
        meta=dict(epoch=3, mmengine_version='0.10', dataset_meta=dict(classes=('a', 'b'))),
        state_dict=network.state_dict(),
        message_hub=message_hub().state_dict(),
    )
    save_checkpoint(content, str(path))
    return network


def write_hostile(path, trace):
    """Write a checkpoint that makes a folder when it is unpickled."""
    torch.save(dict(state_dict={}, evil=Reduced(os.mkdir, str(trace))), path)


#: How each scheme names a file of the site: a name, and where mmengine looks it up.
ZOOS = {
    'torchvision://': 'get_torchvision_models',
    'modelzoo://': 'get_torchvision_models',
    'openmmlab://': 'get_external_models',
    'open-mmlab://': 'get_external_models',
    'mmcls://': 'get_mmcls_models',
}


@pytest.fixture(params=['http://', *ZOOS])
def address(request, site, monkeypatch):
    """Return the name of the site's file ``x.pth`` for mmengine."""
    url = f'{site[1]}/x.pth'
    if request.param == 'http://':
        return url
    monkeypatch.setattr(zoos, ZOOS[request.param], lambda: {'x': url})
    return f'{request.param}x'


def test_a_published_checkpoint_loads(site, address):
    network, other = write_real(site[0] / 'x.pth'), torch.nn.Linear(2, 3)
    loaded = load(address)
    if address.startswith('mmcls'):  # keeps the backbone only
        assert loaded == dict(state_dict={})
        return
    assert_is_hub(loaded['message_hub'])
    assert loaded['meta']['dataset_meta'] == dict(classes=('a', 'b'))
    load_checkpoint(other, address, strict=True)
    assert torch.equal(other.weight, network.weight)


def test_a_hostile_one_is_refused(site, address, tmp_path):
    trace = tmp_path / 'trace'
    write_hostile(site[0] / 'x.pth', trace)
    for _ in range(2):  # first downloaded, then from the cache
        with pytest.raises(CheckpointError, match=r'x\.pth: .*mkdir'):
            load(address)
    assert not trace.exists()


def test_it_is_downloaded_once(site):
    write_real(site[0] / 'x.pth')
    first = load(f'{site[1]}/x.pth')
    (site[0] / 'x.pth').unlink()
    second = load(f'{site[1]}/x.pth')
    assert torch.equal(first['state_dict']['weight'], second['state_dict']['weight'])
    cached = Path(torch.hub.get_dir()) / 'checkpoints'
    assert [path.name for path in cached.iterdir()] == ['x.pth']


@pytest.mark.parametrize('hostile', [False, True])
def test_archives_of_one_file(site, tmp_path, hostile):
    inner, trace = tmp_path / 'inner.pth', tmp_path / 'trace'
    content = Reduced(os.mkdir, str(trace)) if hostile else dict(w=torch.arange(3))
    torch.save(content, inner, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(site[0] / 'x.pth', 'w') as archive:
        archive.write(inner, '../inner.pth')
    if hostile:
        with pytest.raises(CheckpointError, match='mkdir'):
            load(f'{site[1]}/x.pth')
        assert not trace.exists()
    else:
        assert load(f'{site[1]}/x.pth')['w'].tolist() == [0, 1, 2]


def test_an_archive_of_zeros_is_bounded(site):
    with (
        zipfile.ZipFile(site[0] / 'x.pth', 'w', zipfile.ZIP_DEFLATED) as archive,
        archive.open('zeros', 'w') as file,
    ):
        for _ in range(300):
            file.write(bytes(2**20))
    with pytest.raises(CheckpointError, match='holds more than'):
        load(f'{site[1]}/x.pth')


@pytest.mark.parametrize('method', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_of_one_file_is_named(site, method):
    path = site[0] / 'x.pth'
    with zipfile.ZipFile(path, 'w', method) as archive:
        archive.writestr('inner.pth', bytes(range(256)) * 9)
    raw = bytearray(path.read_bytes())
    raw[55:95] = bytes(40)
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r'x\.pth: truncated, damaged or no file'):
        load(f'{site[1]}/x.pth')


def test_the_members_of_a_downloaded_archive_are_bounded(site, monkeypatch):
    monkeypatch.setattr(hub_loaders, 'Budget', lambda _, size: Budget(10**4, size))
    with zipfile.ZipFile(site[0] / 'x.pth', 'w') as archive:
        for i in range(100):
            archive.writestr(str(i), b'')
    with pytest.raises(CheckpointError, match=r'x\.pth: its content takes up more than 10000'):
        load(f'{site[1]}/x.pth')


def test_a_file_of_the_zoo_on_the_disk(site, tmp_path, monkeypatch):
    trace = tmp_path / 'trace'
    monkeypatch.setenv('MMENGINE_HOME', str(site[0]))
    monkeypatch.setattr(zoos, 'get_external_models', lambda: {'x': 'x.pth'})
    with pytest.raises(FileNotFoundError, match=r'x\.pth can not be found'):
        load('openmmlab://x')
    write_hostile(site[0] / 'x.pth', trace)
    with pytest.raises(CheckpointError, match='mkdir'):
        load('openmmlab://x')
    assert not trace.exists()


def test_a_file_of_pavi(tmp_path, monkeypatch):
    trace = tmp_path / 'trace'
    cloud = types.SimpleNamespace(
        get=lambda path: types.SimpleNamespace(
            name=path, download=lambda target: write_hostile(target, trace)
        )
    )
    monkeypatch.setitem(sys.modules, 'pavi', types.SimpleNamespace(modelcloud=cloud))
    with pytest.raises(CheckpointError, match='mkdir'):
        load('pavi://x.pth')
    assert not trace.exists()


def test_the_switch_of_torch_trusts_a_download(site, monkeypatch, tmp_path):
    trace = tmp_path / 'trace'
    write_hostile(site[0] / 'x.pth', trace)
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    load(f'{site[1]}/x.pth')
    assert trace.exists()


def test_no_scheme_is_left_to_mmengine():
    modules = {loader.__module__ for loader in CheckpointLoader._schemes.values()}
    assert all(name.startswith('mmesbnn.checkpoints.') for name in modules), modules
