"""Manifests are complete and show that an export was changed."""

import json

import pytest

from mmesbnn import __version__
from mmesbnn.deploy import ExportError, read_manifest, write_manifest
from mmesbnn.deploy.runtime.manifest import NAME, sha256
from mmesbnn.deploy.runtime.manifest_schema import Manifest

CONTENT = dict(
    task='classification',
    inputs=[{'name': 'image', 'shape': [-1, 3, 8, 8]}],
    outputs=[{'name': 'logits', 'shape': [-1, 2]}],
    preprocessing={'steps': [], 'mean': [0.0], 'std': [255.0], 'to_rgb': True},
    classes=['cat', 'dog'],
    decoding={'activation': None},
    versions={'openvino': '1'},
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'model.xml').write_text('abc')
    (tmp_path / 'model.bin').write_bytes(b'\0' * 3_000_000)
    write_manifest(tmp_path, Manifest.from_dict(CONTENT))
    return tmp_path


def test_what_is_written_is_read(folder):
    manifest = read_manifest(folder)
    assert manifest.versions == {'mmesbnn': __version__, 'openvino': '1'}
    assert manifest.format == 1
    # of FIPS 180-2, appendix B.1
    assert manifest.files['model.xml'].startswith('ba7816bf8f01cfea414140de5dae2223')
    assert manifest.files['model.bin'] == sha256(folder / 'model.bin')
    content = json.loads((folder / NAME).read_text())
    assert {**content, **CONTENT, 'versions': 0} == {**content, 'versions': 0}
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    assert {p.name for p in folder.iterdir()} == {'model.xml', 'model.bin', NAME}


def test_a_changed_file(folder):
    with (folder / 'model.bin').open('r+b') as file:
        file.seek(2_000_000)
        file.write(b'\1')
    with pytest.raises(ExportError, match=r'model\.bin: changed since the export'):
        read_manifest(folder)
    assert read_manifest(folder, verify=False).task == 'classification'


def test_a_missing_file(folder):
    (folder / 'model.bin').unlink()
    for verify in (True, False):
        with pytest.raises(ExportError, match=r'model\.bin: missing'):
            read_manifest(folder, verify)


def test_folders_that_are_no_exports(tmp_path):
    with pytest.raises(ExportError, match='no such folder'):
        read_manifest(tmp_path / 'x')
    with pytest.raises(ExportError, match='not an export, it has no manifest'):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda content: '{', 'cannot be read'),
        (lambda content: '[]', 'not the manifest of an export'),
        (lambda content: json.dumps({**content, 'format': 9}), 'format=9'),
        (lambda content: json.dumps({**content, 'task': 'x'}), "task='x'"),
        (
            lambda content: json.dumps({k: content[k] for k in ('format', 'task')}),
            'must be a dict with inputs, outputs',
        ),
    ],
)
def test_spoiled_manifests(folder, change, words):
    content = json.loads((folder / NAME).read_text())
    (folder / NAME).write_text(change(content))
    with pytest.raises(ExportError, match=words):
        read_manifest(folder)


def test_nothing_incomplete_is_written(folder):
    with pytest.raises(ValueError, match=r'manifest.*must be a Manifest'):
        write_manifest(folder, CONTENT)
    (folder / 'model.xml').unlink()
    with pytest.raises(FileNotFoundError):
        write_manifest(folder, Manifest.from_dict(CONTENT))
