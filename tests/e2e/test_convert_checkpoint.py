"""tools/convert_checkpoint.py, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.reference.published_bnext import Network, random_state

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'convert_checkpoint.py'
NET = Network((16, 32), tau=2, kind='rep_ops')


def run(*args, cwd):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, args)],
        cwd=cwd, capture_output=True, text=True, timeout=120,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    torch.save(dict(state_dict=random_state(NET, 5e-8)), tmp_path / 'signs.pth')
    torch.save(dict(state_dict=random_state(NET, 1.0)), tmp_path / 'soft.pth')
    return tmp_path


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
    assert done.stderr == 'error: missing.pth: no such file\n'
    assert done.stdout == ''
    assert not (folder / 'out.pth').exists()
