"""tools/count_ops.py as a user runs it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from mmesbnn.analysis import build_model, load_config, measure_capacity, real_batch
from tests.analysis.digits import TOOLS, run_tool, set_temperature, write_project

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
        (['{config}', '--figure', 'c.png'], '--weights and --figure need --images'),
        (['{config}', '--images', '0'], "argument --images: '0' must be"),
        (['{config}', '--images', '2', '--baseline', 'b.py'], '--baseline needs --figure'),
        (['{config}', '--baseline-weights', 'b.pth'], '--baseline-weights needs --baseline'),
        (['{config}', '--images', '2', '--max-bytes', '9'], '--max-bytes needs --weights or'),
    ],
)
def test_errors_are_one_sentence(tmp_path, count, args, words):
    config = write_project(tmp_path)
    code, _, err = count(*(arg.format(config=config) for arg in args))
    assert code == 2
    assert words in err.strip().splitlines()[-1]
    assert 'Traceback' not in err


@pytest.mark.parametrize('read', ['config', 'weights', 'baseline', 'baseline-weights'])
@pytest.mark.parametrize('written', ['json', 'figure'])
def test_no_file_that_is_read_is_overwritten(tmp_path, count, read, written):
    names = ('config', 'weights', 'baseline', 'baseline-weights', 'json', 'figure')
    paths = {name: tmp_path / f'{name}.file' for name in names}
    for path in paths.values():
        path.write_text(path.name)
    paths[written] = paths[read]
    config = paths.pop('config')
    code, _, err = count(config, '--images', 2, *(f'--{k}={v}' for k, v in paths.items()))
    assert (code, 'Would overwrite the file that is read' in err) == (2, True)
    assert all(path.read_text() == path.name for path in tmp_path.iterdir())


def test_numbers_and_drawing_in_one_file(tmp_path, count):
    file = tmp_path / 'out'
    other = tmp_path / '.' / '..' / tmp_path.name / 'out'
    options = ('--images', 2, '--json', file, '--figure', other)
    code, _, err = count(write_project(tmp_path), *options)
    assert (code, '--json and --figure name the same file' in err) == (2, True)
    assert not file.exists()


def test_measured_on_data_and_drawn_beside_the_baseline(tmp_path, count):
    pytest.importorskip('matplotlib')
    config = write_project(tmp_path)
    model = set_temperature(build_model(load_config(config)), 0.0)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'es.pth')
    options = ('--weights', tmp_path / 'es.pth', '--images', 4)
    files = ('--figure', tmp_path / 'c.png', '--json', tmp_path / 'ops.json')
    code, out, err = count(config, *options, *files, '--baseline', config)
    assert code == 0
    assert 'no weights are given' in err, 'of the baseline'
    head = next(line for line in out.splitlines() if line.startswith('layer '))
    assert head.split()[-7:-3] == ['capacity', 'values', 'rank', 'copies']
    assert 'mean |correlation| between two copies of a channel' in out
    content = json.loads((tmp_path / 'ops.json').read_text())
    layers, baseline = content['layers'], content['baseline']
    binary = [x for x in layers if x['kind'] == 'binary']
    batch = real_batch(load_config(config), 4)
    found = measure_capacity(model, lambda: model.test_step(batch))
    assert [x['name'] for x in binary] == [x.name for x in found]
    for layer, measured in zip(binary, found, strict=True):
        assert layer['rank'] == pytest.approx(measured.rank)
        assert layer['values'] == pytest.approx(measured.values)
    assert all(x['rank'] is None for x in layers if x['kind'] != 'binary')
    assert baseline['config'] == str(config)
    assert [x['name'] for x in baseline['layers']] == [x.name for x in found]
    assert Image.open(tmp_path / 'c.png').size == (1500, 450)
