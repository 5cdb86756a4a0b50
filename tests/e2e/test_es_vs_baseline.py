"""The comparison of forms as a command line: it prints its measurements."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from es.records import Records
from es.summary import summarise, table
from PIL import Image

pytestmark = pytest.mark.slow
pytest.importorskip('skimage')

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'tools' / 'benchmarks' / 'es_vs_baseline.py'


def run(folder, *options):
    return subprocess.run(
        [sys.executable, str(SCRIPT), '--preset', 'tiny', *options],
        cwd=folder,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        timeout=300,
        capture_output=True,
    )


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bench')
    done = run(folder, '--out', 'results/tiny')
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / 'results' / 'tiny', done.stdout


def test_every_training_is_a_line_with_its_figures_and_costs(done):
    lines = [json.loads(x) for x in done[0].with_suffix('.jsonl').read_text().splitlines()]
    assert len(lines) == 8
    assert {(x['task'], x['form'], x['seed']) for x in lines} == {
        (task, form, seed)
        for task in ('regions', 'denoising')
        for form in ('1x1', '2x1+signs')
        for seed in (0, 1)
    }
    for task in ('regions', 'denoising'):
        assert len({(x['ops'], x['binary_params']) for x in lines if x['task'] == task}) == 1
    for x in lines:
        assert x['fit']['loss'] > 0 and x['test']['loss'] > 0 and x['seconds'] > 0
        assert len(x['curve']) and len(x['diversity']['end']['rank']) == 2
    assert len({x['fit']['loss'] for x in lines}) == 8


def test_the_table_follows_from_the_file(done):
    path, output = done
    assert table(summarise(Records(path.with_suffix('.jsonl')))) in output
    assert output.count('`2x1+signs` | 2 |') == 2


def test_there_is_a_picture(done):
    with Image.open(done[0].with_suffix('.png')) as image:
        assert image.format == 'PNG' and image.size[0] >= 800
        assert len(image.convert('RGB').getcolors(1 << 20)) > 10


def figures(lines):
    return sorted(json.dumps({**json.loads(line), 'seconds': None}) for line in lines)


def test_nothing_is_trained_twice_and_two_processes_train_what_is_missing(done):
    path, _ = done
    file = path.with_suffix('.jsonl')
    lines = file.read_text().splitlines()
    again = run(path.parent, '--out', 'tiny')
    assert again.returncode == 0 and ': loss' not in again.stdout
    assert file.read_text().splitlines() == lines
    file.write_text('\n'.join(lines[:-2]) + '\n')
    more = run(path.parent, '--out', 'tiny', '--jobs', '2')
    assert more.returncode == 0, more.stderr[-3000:]
    assert '2 of 2' in more.stdout
    # the same figures, whoever computes them
    assert figures(file.read_text().splitlines()) == figures(lines)


def test_it_ends_in_time(done):
    stopped = run(done[0].parent, '--out', 'new', '--minutes', '0.001')
    assert stopped.returncode == 0, stopped.stderr[-3000:]
    assert 'trainings are left: the same command goes on' in stopped.stdout


def test_an_unknown_preset_is_refused(done):
    failed = run(done[0].parent, '--preset', 'cluster')
    assert failed.returncode == 2 and 'cluster' in failed.stderr
    assert 'Traceback' not in failed.stderr


def test_a_name_may_have_a_dot(tmp_path):
    (tmp_path / 'tau0.5.jsonl').write_text('{')
    failed = run(tmp_path, '--summary', '--out', 'tau0.5')
    assert failed.returncode == 2
    assert 'line 1 of tau0.5.jsonl is damaged' in failed.stderr
