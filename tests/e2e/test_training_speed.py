"""tools/benchmarks/training.py as a user runs it, on narrow networks."""

import json

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


def test_sizes_are_a_batch_and_pixels(tmp_path, monkeypatch, capsys):
    code = run_tool(
        'benchmarks/training.py', '--sizes', '4', '--out', tmp_path, monkeypatch=monkeypatch
    )
    assert code == 2
    assert "'4' must be BATCHxPIXELS" in capsys.readouterr().err
