"""tools/convert_checkpoint.py as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmesbnn.conversion import FAMILIES
from tests.analysis.digits import run_tool
from tests.reference import published_binary_vit, published_reactnet
from tests.reference.published_bnext import Network, random_state

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'convert_checkpoint.py'
NET = Network((16, 32), tau=2, kind='rep_ops')


def run(*args, cwd):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )


#: For each other family: the reference module, a network, its title.
OTHERS = {
    'ReActNet-A': (
        published_reactnet,
        published_reactnet.Network((8, 16), name='weights', flat=True),
        'ReActNet variant',
    ),
    'Bi-Real': (
        published_reactnet,
        published_reactnet.Network((8, 8, 16), (1, 1), name='weights', flat=True, shifts=False),
        'Bi-Real Net variant',
    ),
    'BinaryViT': (published_binary_vit, published_binary_vit.Network(), 'BinaryViT variant'),
}


@pytest.fixture
def folder(tmp_path):
    torch.save(dict(state_dict=random_state(NET, 5e-8)), tmp_path / 'signs.pth')
    torch.save(dict(state_dict=random_state(NET, 1.0)), tmp_path / 'soft.pth')
    return tmp_path


def test_the_help_names_all_families():
    text = ' '.join(TOOL.read_text().split('"""')[1].split())
    names = [name for family in FAMILIES for name in family.name.split(' or ')]
    assert [name for name in names if name not in text] == []


def test_a_file_of_signs_is_converted_and_summarised(folder):
    done = run('signs.pth', 'out.pth', cwd=folder)
    assert (done.returncode, done.stderr) == (0, '')
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines['network'] == 'ES-BNext variant (rep_ops, tau=2)'
    assert lines['channels'] == '16, 32'
    assert lines['classes'] == '10'
    assert lines['weights'] == 'binary (T = 5e-08)'
    assert lines['wrote'].startswith('out.pth')
    assert (folder / 'out.pth').is_file()


def test_a_never_binarized_file_warns_and_can_be_binarized(folder):
    done = run('soft.pth', 'out.pth', '--binarize', cwd=folder)
    assert done.returncode == 0
    assert done.stderr.startswith('warning: soft.pth: weights never binarized')
    assert len(done.stderr.splitlines()) == 1
    written = torch.load(folder / 'out.pth', weights_only=True)
    assert written['meta']['model']['backbone']['sign_zero'] == -1
    temperatures = [v for k, v in written['state_dict'].items() if 'temperature' in k]
    assert torch.cat(temperatures).eq(0).all()


def test_errors_are_one_sentence_and_exit_with_2(folder):
    done = run('missing.pth', 'out.pth', cwd=folder)
    assert done.returncode == 2
    assert done.stderr == 'convert_checkpoint.py: missing.pth: no such file\n'
    assert done.stdout == ''
    assert not (folder / 'out.pth').exists()


@pytest.mark.parametrize('family', OTHERS)
def test_files_of_other_families_give_the_published_logits(family, tmp_path, monkeypatch, capsys):
    registry = pytest.importorskip('mmpretrain').registry
    account, net, title = OTHERS[family]
    state, target = account.random_state(net), tmp_path / 'out.pth'
    wrapped = {f'module.{key}': value for key, value in state.items()}
    torch.save(dict(epoch=1, state_dict=wrapped), tmp_path / 'published.pth.tar')
    names = (tmp_path / 'published.pth.tar', target)
    assert run_tool('convert_checkpoint.py', *names, monkeypatch=monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split(maxsplit=1)[1] == title
    assert err == ''
    converted = torch.load(target, weights_only=True)
    model = registry.MODELS.build(converted['meta']['model']).double().eval()
    model.load_state_dict(converted['state_dict'], strict=True)
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        ours, theirs = model(x, mode='tensor'), account.logits(state, net, x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def damaged(account, net, kind):
    state = account.random_state(net)
    if kind == 'wrong shape':
        key = next(key for key in state if key.endswith('running_mean'))
        state[key] = torch.zeros(3)
    elif kind == 'missing':
        del state[next(key for key in state if key.endswith('running_mean'))]
    elif kind == 'another family':
        state = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)).state_dict()
    return state


@pytest.mark.parametrize('family', OTHERS)
@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('wrong shape', 'running_mean: (3,) for'),
        ('missing', '1 are missing ('),
        ('another family', 'not a published checkpoint of a known family'),
        ('truncated', 'is truncated'),
    ],
)
def test_damaged_files_of_other_families_are_named(
    family, kind, message, tmp_path, monkeypatch, capsys
):
    account, net, _ = OTHERS[family]
    source, target = tmp_path / 'published.pth', tmp_path / 'out.pth'
    torch.save(damaged(account, net, kind), source)
    if kind == 'truncated':
        source.write_bytes(source.read_bytes()[:-500])
    names = (source, target)
    assert run_tool('convert_checkpoint.py', *names, monkeypatch=monkeypatch) == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert len(err.splitlines()) == 1
    assert err.startswith(f'convert_checkpoint.py: {source}: ') and message in err
    assert not target.exists()
