"""Networks go to a hub and come back equal; the hub is a server on this computer."""

import dataclasses
import json
import shutil

import pytest
import yaml

import mmesbnn
from mmesbnn.deploy import PackError
from mmesbnn.pretrained import PretrainedError
from tests.pretrained.fake_hub import TOKEN, fake_hub
from tests.pretrained.networks import BACKBONE, SHAPE, backbone, equal
from tests.test_import import BLOCK, python

hub_library = pytest.importorskip('huggingface_hub')
pytest.importorskip('safetensors')

NAME = 'me/es-net'
#: Releases before 1.3.3 upload to the hub of HF_ENDPOINT only.
IS_OLD = '_endpoint' not in hub_library.CommitInfo.__dataclass_fields__
FILES = {'README.md', 'config.json', 'model.safetensors', '.gitattributes'}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub; uploads go over HTTP, and no token or cache of the user is touched."""
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_DISABLE_XET', True, raising=False)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.setattr('huggingface_hub.constants.HF_TOKEN_PATH', str(tmp_path / 'token'))
    for name in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'):
        monkeypatch.delenv(name, raising=False)
    for name in (
        'http_proxy',
        'https_proxy',
        'all_proxy',
        'HTTP_PROXY',
        'HTTPS_PROXY',
        'ALL_PROXY',
    ):
        monkeypatch.delenv(name, raising=False)
    with fake_hub() as running:
        yield running


@pytest.fixture
def push(hub):
    def run(model, name=NAME, **options):
        options = {'config': BACKBONE, 'input_shape': SHAPE, 'token': TOKEN, **options}
        with pytest.MonkeyPatch.context() as patch:
            if IS_OLD:  # as the environment variable does
                patch.setattr('huggingface_hub.constants.ENDPOINT', hub.endpoint)
            return mmesbnn.push_to_hub(model, name, endpoint=hub.endpoint, **options)

    return run


@pytest.fixture
def pull(hub, tmp_path):
    def run(name=NAME, **options):
        options = {'cache_dir': tmp_path / 'cache', 'endpoint': hub.endpoint, **options}
        return mmesbnn.from_pretrained(name, **options)

    return run


def test_a_network_comes_back_equal(hub, push, pull):
    model = backbone()
    url = push(model)
    repository = hub.repositories[NAME]
    commit = repository.branches['main']
    assert url == f'{hub.endpoint}/{NAME}/commit/{commit}'
    assert set(repository.commits[commit]) == FILES
    assert len(repository.commits) == 2  # the hub's first commit, and one with all files
    assert equal(pull(), model)


def test_only_config_and_weights_are_downloaded(hub, push, pull):
    push(backbone())
    hub.repositories[NAME].add('main', {'code.py': b'raise SystemExit', 'x.bin': b'x'}, 'more')
    hub.requests.clear()
    pull()
    files = {path.rpartition('/')[2] for _, path, _ in hub.requests}
    assert files == {'config.json', 'model.safetensors'}


def test_both_files_are_of_one_commit(hub, push, pull, monkeypatch):
    first, second = backbone(), backbone(tau=1)
    push(first)
    old = dict(hub.repositories[NAME].commits[hub.repositories[NAME].branches['main']])
    repository = hub.repositories[NAME]
    download = hub_library.hf_hub_download

    def moving(name, file, **options):
        path = download(name, file, **options)
        if file == 'config.json':  # the branch moves between the two downloads
            push(second, config=dict(BACKBONE, tau=1))
        return path

    monkeypatch.setattr(hub_library, 'hf_hub_download', moving)
    loaded = pull()
    assert repository.commits[repository.branches['main']] != old
    assert equal(loaded, first)


def test_a_revision_is_a_branch_or_a_commit(hub, push, pull):
    first, second = backbone(), backbone()
    push(first)
    commit = hub.repositories[NAME].branches['main']
    push(second, revision='better', commit_message='Train longer')
    assert hub.repositories[NAME].messages[-1] == 'Train longer'
    assert equal(pull(), first)
    assert equal(pull(revision='better'), second)
    assert equal(pull(revision=commit), first)


def test_a_pull_request_leaves_the_branch_alone(hub, push, pull):
    first, second = backbone(), backbone()
    push(first)
    assert push(second, create_pr=True) == f'{hub.endpoint}/{NAME}/discussions/1'
    assert equal(pull(), first)
    assert equal(pull(revision='refs/pr/1'), second)


def test_the_cache_works_without_the_hub(hub, push, pull):
    model = backbone()
    push(model)
    pull()
    hub.requests.clear()
    assert equal(pull(local_files_only=True), model)
    assert hub.requests == []
    assert equal(pull(endpoint='http://127.0.0.1:1'), model)  # as if the network were down


def test_a_new_commit_replaces_the_cached_one(push, pull):
    push(backbone())
    pull()
    newer = backbone()
    push(newer)
    assert equal(pull(), newer)


def test_what_is_not_cached_is_named(hub, push, pull):
    push(backbone())
    with pytest.raises(PretrainedError, match='me/es-net is not in the cache'):
        pull(local_files_only=True)
    assert not any('resolve' in path for _, path, _ in hub.requests)


def test_a_private_network_needs_the_token(hub, push, pull):
    model = backbone()
    push(model, private=True)
    assert hub.repositories[NAME].private
    with pytest.raises(PretrainedError, match='no such network, or it is private'):
        pull()
    assert equal(pull(token=TOKEN), model)


def test_a_wrong_token_cannot_write(push):
    with pytest.raises(PretrainedError, match=r'me/es-net: .*401'):
        push(backbone(), token='hf_wrong')


def test_a_missing_network_or_revision_is_named(push, pull):
    push(backbone())
    with pytest.raises(PretrainedError, match='me/other: the hub has no such network'):
        pull('me/other')
    with pytest.raises(PretrainedError, match=r'\(revision v2\): the hub has no such revision'):
        pull(revision='v2')


def test_a_network_of_another_package_is_named(hub, push, pull):
    push(backbone())
    del hub.repositories[NAME].commits[hub.repositories[NAME].branches['main']]['model.safetensors']
    with pytest.raises(PretrainedError, match=r'no config\.json or no model\.safetensors'):
        pull()


@pytest.mark.slow  # huggingface_hub tries five times
def test_an_old_library_that_cannot_upload_to_another_hub(monkeypatch, hub):
    """Such a release makes the commit and then fails; it must not begin."""
    fields = dataclasses.fields(hub_library.CommitInfo)
    old = dataclasses.make_dataclass('Old', [x.name for x in fields if x.name != '_endpoint'])
    monkeypatch.setattr(hub_library, 'CommitInfo', old)
    with pytest.raises(PretrainedError, match=r'endpoint=.*HF_ENDPOINT only: set it, or install'):
        mmesbnn.push_to_hub(
            backbone(), NAME, config=BACKBONE, input_shape=SHAPE, token=TOKEN, endpoint=hub.endpoint
        )
    assert not hub.requests


def test_a_dead_hub_is_named(push, pull, monkeypatch):
    with pytest.raises(PretrainedError, match='is not in the cache, and the hub was not asked'):
        pull(endpoint='http://127.0.0.1:1')
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:1')
    with pytest.raises(PretrainedError, match='me/es-net: '):
        mmesbnn.push_to_hub(
            backbone(),
            NAME,
            config=BACKBONE,
            input_shape=SHAPE,
            token=TOKEN,
            endpoint='http://127.0.0.1:1',
        )


def test_a_name_without_an_owner_is_that_of_the_token(hub, push):
    push(backbone(), 'es-net')
    assert list(hub.repositories) == [NAME]


def test_nothing_is_uploaded_if_a_layer_is_not_binary(hub, push):
    model = backbone()
    for name, buffer in model.named_buffers():
        if name.endswith('temperature'):
            buffer.fill_(1.0)
    with pytest.raises(PackError, match='cannot pack'):
        push(model)
    assert hub.requests == []


def test_a_folder_has_priority_over_the_hub(hub, push, pull, tmp_path, monkeypatch):
    local = backbone()
    push(backbone())
    mmesbnn.save_pretrained(local, tmp_path / NAME, config=BACKBONE, input_shape=SHAPE)
    monkeypatch.chdir(tmp_path)
    assert equal(pull(), local)


@pytest.mark.parametrize('name', ['../net', './net', '/net', 'a/b/c', 'net.safetensors/', 'me/..'])
def test_a_place_on_the_disk_is_not_asked_from_the_hub(hub, pull, name):
    with pytest.raises((FileNotFoundError, PretrainedError)):
        pull(name)
    assert not any('resolve' in path for _, path, _ in hub.requests)


def test_create_model_takes_weights_from_the_hub(hub, push, tmp_path):
    pytest.importorskip('mmpretrain')
    small = dict(arch=dict(channels=[16, 16, 32], depths=[1, 1]), features_only=True)
    model = mmesbnn.create_model('es-bnext-18_b512_cifar10', **small)
    for name, buffer in model.named_buffers():
        if name.endswith('temperature'):
            buffer.zero_()
    push(model, config=None)
    loaded = mmesbnn.create_model(
        'es-bnext-18_b512_cifar10',
        pretrained=NAME,
        cache_dir=tmp_path / 'cache',
        endpoint=hub.endpoint,
        **small,
    )
    assert equal(loaded.eval(), model.eval())


def test_the_card_and_the_config_are_what_a_hub_shows(hub, push):
    push(backbone(), license='apache-2.0')
    files = hub.repositories[NAME].commits[hub.repositories[NAME].branches['main']]
    head = yaml.safe_load(files['README.md'].decode().split('---')[1])
    assert head['library_name'] == json.loads(files['config.json'])['library_name'] == 'mmesbnn'
    assert head['license'] == 'apache-2.0'
    assert f"mmesbnn.from_pretrained('{NAME}')" in files['README.md'].decode()


def test_a_damaged_download_is_refused(hub, push, pull):
    push(backbone())
    files = hub.repositories[NAME].commits[hub.repositories[NAME].branches['main']]
    data = bytearray(files['model.safetensors'])
    data[-1] ^= 1
    files['model.safetensors'] = bytes(data)
    with pytest.raises(PackError, match='damaged'):
        pull()


def test_a_missing_library_is_named(tmp_path):
    done = python(f"{BLOCK}\nimport mmesbnn\nmmesbnn.from_pretrained('me/net')", tmp_path)
    sentence = 'Loading from a hub needs huggingface_hub, which is not installed: pip install '
    assert sentence + "'mmesbnn[hub]'" in done.stderr


def test_a_copied_snapshot_is_a_folder_of_its_own(push, pull, tmp_path):
    model = backbone()
    push(model)
    pull()
    (snapshot,) = (tmp_path / 'cache').glob('models--*/snapshots/*')
    shutil.copytree(snapshot, tmp_path / 'copy')
    assert equal(mmesbnn.from_pretrained(tmp_path / 'copy'), model)
    assert equal(mmesbnn.from_pretrained(snapshot), model)


@pytest.mark.parametrize('endpoint', ['hub.example', 'ftp://hub.example', 7])
def test_an_endpoint_that_is_no_address_is_named(endpoint):
    with pytest.raises(ValueError, match=r'endpoint=.*must be an address'):
        mmesbnn.from_pretrained('me/net', endpoint=endpoint)
    with pytest.raises(ValueError, match=r'endpoint=.*must be an address'):
        mmesbnn.push_to_hub(backbone(), 'me/net', endpoint=endpoint)
