"""tools/save_pretrained.py as a user runs it."""

import pytest

import mmesbnn
from tests.analysis.digits import run_tool, write_trained
from tests.pretrained.fake_hub import TOKEN, fake_hub
from tests.pretrained.networks import equal

pytest.importorskip('mmpretrain')
pytest.importorskip('safetensors')


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Return a checkpoint as mmengine saves it, and its model."""
    folder = tmp_path_factory.mktemp('project')
    path = folder / 'epoch_1.pth'
    return path, write_trained(folder, path)[1]


@pytest.fixture
def save(monkeypatch, capsys):
    def run(*args):
        code = run_tool('save_pretrained.py', *args, monkeypatch=monkeypatch)
        return code, *capsys.readouterr()

    return run


def test_a_checkpoint_becomes_a_folder(project, save, tmp_path):
    checkpoint, model = project
    code, out, err = save(
        checkpoint,
        tmp_path / 'net',
        *('--license', 'mit', '--dataset', 'mnist', '--metric', 'accuracy/top1=0.5'),
    )
    assert code == 0, err
    assert 'whole file' in out and out.endswith(f'wrote {tmp_path / "net"}\n')
    loaded = mmesbnn.from_pretrained(tmp_path / 'net')
    assert equal(loaded, model) and loaded._dataset_meta == {'classes': ['0', '1', '2']}
    card = (tmp_path / 'net' / 'README.md').read_text()
    assert 'license: mit' in card and '| accuracy/top1 | 0.5 |' in card


def test_push_uploads_the_folder(project, save, tmp_path, monkeypatch):
    pytest.importorskip('huggingface_hub')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_DISABLE_XET', True, raising=False)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    checkpoint, model = project
    with fake_hub() as hub:
        options = ('--push', 'me/digits', '--private', '--endpoint', hub.endpoint)
        code, out, err = save(checkpoint, tmp_path / 'net', *options)
        assert code == 0, err
        commit = hub.repositories['me/digits'].branches['main']
        assert f'uploaded to {hub.endpoint}/me/digits/commit/{commit}' in out
        assert hub.repositories['me/digits'].private
        where = dict(cache_dir=tmp_path / 'cache', endpoint=hub.endpoint)
        assert equal(mmesbnn.from_pretrained('me/digits', **where), model)
        monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
        code, _, err = save(checkpoint, tmp_path / 'again', *options)
        assert code == 2 and err.count('\n') == 1 and 'me/digits: ' in err, err


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--private'], 'need --push'),
        (['--metric', 'accuracy=1'], '--metric and --dataset need each other'),
        (['--metric', 'accuracy'], 'must be NAME=NUMBER'),
        (['--push', 'me/net', '--endpoint', 'hub.example'], 'must be an address'),
    ],
)
def test_wrong_options_are_named(save, options, said):
    code, _, err = save('x.pth', 'net', *options)
    assert code == 2 and said in err


def test_a_filled_folder_is_refused_before_the_work(save, tmp_path):
    (tmp_path / 'mine').write_text('')
    code, _, err = save('nowhere.pth', tmp_path)
    assert code == 2 and 'do not belong to a network (mine)' in err


@pytest.mark.parametrize('given', [('net/model.safetensors',), ('x.pth', '--config', 'net/x.py')])
def test_a_folder_with_a_file_that_is_read_is_refused(save, tmp_path, monkeypatch, given):
    (tmp_path / 'net').mkdir()
    for name in ('model.safetensors', 'x.py'):
        (tmp_path / 'net' / name).touch()
    monkeypatch.chdir(tmp_path)
    code, _, err = save(given[0], tmp_path / 'net', *given[1:])
    assert code == 2 and 'Would overwrite the file that is read' in err
