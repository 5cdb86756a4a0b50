"""The comparison of forms as a command line: it prints its measurements."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest
from PIL import Image

from tools.benchmarks.paired import paired_difference

pytestmark = pytest.mark.slow
pytest.importorskip('skimage')

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'tools' / 'benchmarks' / 'es_vs_baseline.py'
SMALL = ('--quick', '--seeds', '2', '--forms', '2x1')


def run(folder, *options):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, options)],
        cwd=folder,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        timeout=300,
        capture_output=True,
    )


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bench')
    done = run(folder, *SMALL, '--families', 'ReActNet', '--out', 'out')
    assert done.returncode == 0, done.stderr[-3000:]
    return (folder, done.stdout, json.loads((folder / 'out' / 'results.json').read_text()))


def test_the_table_shows_what_the_file_holds(done):
    _, output, results = done
    lines = [x for x in output.splitlines() if re.match(r'ReActNet +\d', x)]
    assert len(lines) == len(results['summary']) == 2
    for line, row in zip(lines, results['summary']):
        shown = [float(x) for x in re.findall(r'[-+]?\d+\.?\d*', line.replace(',', ''))]
        expected = [
            row['tau'],
            row['groups'],
            row['ops'] / 1e6,
            row['binary_params'],
            row['capacity'],
        ]
        for part in ('train', 'test'):
            expected += [row[part]['mean'], row[part]['std']]
            if row['tau'] == 2:
                difference = row[part]['difference']
                expected += [difference[name] for name in ('mean', 'low', 'high')]
        assert shown == pytest.approx(expected, abs=0.0051)


@pytest.mark.parametrize('part', ['train', 'test'])
def test_the_summary_follows_from_the_runs(done, part):
    _, _, results = done
    accuracies = {
        tau: [
            results['runs'][f'ReActNet tau={tau} groups=1 seed={seed}'][part] for seed in range(2)
        ]
        for tau in (1, 2)
    }
    baseline, row = (row[part] for row in results['summary'])
    assert baseline['all'] == accuracies[1] and 'difference' not in baseline
    assert row['all'] == accuracies[2]
    assert row['mean'] == pytest.approx(mean(accuracies[2]))
    assert row['std'] == pytest.approx(stdev(accuracies[2]))
    expected = paired_difference(accuracies[2], accuracies[1])
    assert row['difference']['mean'] == pytest.approx(expected.mean)
    assert row['difference']['low'] == pytest.approx(expected.low)


def test_forms_cost_the_same(done):
    baseline, row = done[2]['summary']
    for name in ('ops', 'bops', 'fp_macs', 'binary_params'):
        assert baseline[name] == row[name] > 0
    assert row['capacity'] > baseline['capacity']


def test_there_is_a_picture(done):
    with Image.open(done[0] / 'out' / 'results.png') as image:
        assert image.format == 'PNG' and image.size[0] >= 800
        assert len(image.convert('RGB').getcolors(1 << 20)) > 10


def test_what_is_there_is_not_trained_again_but_a_new_seed_is(done):
    folder, _, results = done
    options = ['3' if x == '2' and SMALL[i - 1] == '--seeds' else x for i, x in enumerate(SMALL)]
    more = run(folder, *options, '--families', 'ReActNet', '--out', 'out')
    assert more.returncode == 0, more.stderr[-3000:]
    assert 'seed=0' not in more.stdout and 'seed=2' in more.stdout
    runs = json.loads((folder / 'out' / 'results.json').read_text())['runs']
    assert len(runs) == 6 and results['runs'].items() <= runs.items()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--lr', '0.1', '--out', 'out'), '--out out holds results of other settings'),
        (('--forms', '3x1', '--out', 'new'), 'tau=3 does not divide'),
        (('--seeds', '1'), '--seeds must be at least 2'),
    ],
)
def test_bad_options_end_with_one_sentence(done, options, message):
    failed = run(done[0], *SMALL, '--families', 'ReActNet', *options)
    assert failed.returncode != 0
    assert message in failed.stderr and 'Traceback' not in failed.stderr
