"""tools/count_ops.py as a user runs it."""

import json
import os
import subprocess
import sys

import pytest

from tests.analysis.digits import TOOLS, run_tool, write_project

TOTALS = {'fp_macs', 'bops', 'ops', 'fp_params', 'binary_params', 'bytes_fp32', 'bytes_packed'}


@pytest.fixture
def count(monkeypatch, capsys):
    def run(*args):
        code = run_tool('count_ops.py', *args, monkeypatch=monkeypatch)
        return code, *capsys.readouterr()

    return run


def test_from_another_folder_in_a_process_of_its_own(tmp_path):
    config = write_project(tmp_path)
    done = subprocess.run(
        [sys.executable, TOOLS / 'count_ops.py', config, '--json', 'ops.json'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('input 1 x 3 x 16 x 20\n')
    assert 'backbone.stem.conv' in done.stdout
    content = json.loads((tmp_path / 'ops.json').read_text())
    assert set(content['total']) >= TOTALS
    assert content['config'] == str(config)


def test_shape_and_options(tmp_path, count):
    config, file = write_project(tmp_path), tmp_path / 'ops.json'
    totals = {}
    for tau in (1, 2):
        options = ('--cfg-options', f'model.backbone.tau={tau}')
        code, out, _ = count(config, '--shape', 32, 24, '--json', file, *options)
        assert code == 0
        assert out.startswith('input 1 x 3 x 32 x 24\n')
        totals[tau] = json.loads(file.read_text())['total']
    for name in ('fp_macs', 'bops', 'ops', 'binary_params'):
        assert totals[1][name] == totals[2][name] > 0
    assert totals[1]['capacity_median'] < totals[2]['capacity_median']


def test_says_when_the_size_is_a_guess(tmp_path, count):
    config = write_project(tmp_path)
    code, out, err = count(config, '--cfg-options', 'test_dataloader=None')
    assert code == 0
    assert out.startswith('input 1 x 3 x 224 x 224\n')
    assert 'sets no image size' in err


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (['{config}', '--cfg-options', 'model.backbone.tau=3'], 'tau=3 does not divide'),
        (['{config}', '--cfg-options', 'model.type=NoSuch'], 'NoSuch'),
        (['{config}', '--json', '/nowhere/ops.json'], 'No such folder: /nowhere'),
        (['{config}', '--shape', '0', '5'], "argument --shape: '0' must be"),
        (['nowhere.py'], 'cannot read the config nowhere.py'),
    ],
)
def test_errors_are_one_sentence(tmp_path, count, args, words):
    config = write_project(tmp_path)
    code, _, err = count(*(arg.format(config=config) for arg in args))
    assert code == 2
    assert words in err.strip().splitlines()[-1]
    assert 'Traceback' not in err
