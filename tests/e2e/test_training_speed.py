"""tools/benchmarks/training.py and training_es.py as a user runs them, on narrow networks."""

import json
import os
from statistics import median

import pytest

from mmesbnn import native
from tests.analysis.digits import run_tool


def test_rows_are_measured_and_drawn(tmp_path, monkeypatch, capsys):
    code = run_tool(
        'benchmarks/training.py',
        *('--networks', 'BNext-T', 'ES-BNext-T', 'ResNet-18'),
        *('--sizes', '2x32'),
        *('--forms', 'published', 'ours', 'with_cp'),
        *('--dtypes', 'float32', 'bfloat16'),
        *('--steps', 1),
        *('--out', tmp_path),
        monkeypatch=monkeypatch,
    )
    out, err = capsys.readouterr()
    assert code == 0, err
    assert 'ES-BNext-T, 2 x 32x32, bfloat16' in out
    rows = json.loads((tmp_path / 'training.json').read_text())['rows']
    assert len(rows) == 6
    for row in rows:
        forms = row['forms']
        assert all(form['least_s'] <= form['median_s'] for form in forms.values())
        if row['network'] == 'ResNet-18':
            assert list(forms) == ['ours']
            continue
        saved = {name: form['saved_bytes'] for name, form in forms.items()}
        assert saved['with_cp'] < saved['ours'] < saved['published']
    code = run_tool(
        'benchmarks/training.py',
        *('--networks', 'ReActNet-18', '--sizes', '2x32', '--forms', 'ours', '--steps', 1),
        *('--dtypes', 'float32', '--out', tmp_path),
        monkeypatch=monkeypatch,
    )
    assert code == 0
    after = json.loads((tmp_path / 'training.json').read_text())['rows']
    assert after[:6] == rows and len(after) == 7
    assert (tmp_path / 'cpu_2x32.png').stat().st_size > 5000


@pytest.mark.skipif(
    'avx2' not in (native.instruction_sets() if native.available() else ()), reason='no AVX2'
)
def test_avx2_only(tmp_path, monkeypatch, capsys):
    for name in ('ONEDNN_MAX_CPU_ISA', 'ATEN_CPU_CAPABILITY', 'MKL_ENABLE_INSTRUCTIONS'):
        monkeypatch.setenv(name, '')
    used = []
    monkeypatch.setattr(native, 'use_instruction_set', used.append)
    code = run_tool(
        'benchmarks/training.py',
        *('--avx2', '--networks', 'ReActNet-18', '--sizes', '2x32', '--steps', 1),
        *('--forms', 'native', 'ours+compiled', '--dtypes', 'float32', '--out', tmp_path),
        monkeypatch=monkeypatch,
    )
    assert code == 0, capsys.readouterr().err
    assert os.environ['ATEN_CPU_CAPABILITY'] == 'avx2'
    assert used == ['avx2']
    (row,) = json.loads((tmp_path / 'training-avx2.json').read_text())['rows']
    assert row['avx2_only'] and list(row['forms']) == ['native']
    assert (tmp_path / 'cpu_2x32-avx2.png').exists()


def test_sizes_are_a_batch_and_pixels(tmp_path, monkeypatch, capsys):
    code = run_tool(
        'benchmarks/training.py', '--sizes', '4', '--out', tmp_path, monkeypatch=monkeypatch
    )
    assert code == 2
    assert "'4' must be BATCHxPIXELS" in capsys.readouterr().err


@pytest.mark.skipif(not native.available(), reason='no kernels')
def test_ratios_of_neighbouring_steps(tmp_path, monkeypatch, capsys):
    out = tmp_path / 'es.json'
    code = run_tool(
        'benchmarks/training_es.py',
        *('--size', '2x32', '--steps', 3, '--forms', 'with_cp+native', 'ours', '--out', out),
        monkeypatch=monkeypatch,
    )
    printed, err = capsys.readouterr()
    assert code == 0, err
    saved = json.loads(out.read_text())
    assert saved['size'] == [2, 32] and 'with_cp+native' in printed
    assert [row['form'] for row in saved['rows']] == ['with_cp+native', 'ours']
    for row in saved['rows']:
        plain, expanded = (row['networks'][name] for name in ('BNext-T', 'ES-BNext-T'))
        assert len(plain['times_s']) == 3
        ratios = [b / a for a, b in zip(plain['times_s'], expanded['times_s'])]
        assert row['ratio'] == median(ratios)
        assert row['ratio_of_least'] == min(expanded['times_s']) / min(plain['times_s'])
        times = zip(plain['processor_times_s'], expanded['processor_times_s'])
        assert row['ratio_of_processor_time'] == median(b / a for a, b in times)


def test_ratios_that_cannot_be_written_are_refused_before_the_work(tmp_path, monkeypatch, capsys):
    out = tmp_path / 'missing' / 'es.json'
    assert run_tool('benchmarks/training_es.py', '--out', out, monkeypatch=monkeypatch) == 2
    printed, err = capsys.readouterr()
    assert not printed and err == f'training_es.py: No such folder: {out}\n'
