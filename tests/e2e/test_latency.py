"""tools/benchmarks/latency.py as a user runs it, on a narrow network."""

import json

import pytest

from mmesbnn import native

pytest.importorskip('openvino')

from tests.analysis.digits import run_tool, write_project


def test_quick_run(tmp_path, monkeypatch, capsys):
    config = write_project(tmp_path)
    code = run_tool(
        'benchmarks/latency.py',
        '--quick',
        '--config',
        config,
        '--seconds',
        0.1,
        '--only',
        'ours, eager',
        'published style, eager',
        'OpenVINO fp32',
        '--out',
        tmp_path / 'out',
        monkeypatch=monkeypatch,
    )
    out, err = capsys.readouterr()
    assert code == 0, err
    assert '1 thread(s), batch 1' in out and 'binary kernels:' in out
    saved = json.loads((tmp_path / 'out' / 'latency.json').read_text())
    (result,) = saved['results']
    assert (result['threads'], result['batch']) == (1, 1)
    assert set(result['median_ms']) == {
        'ours, eager',
        'published style, eager',
        'OpenVINO fp32',
        'OpenVINO 1-bit',
    }
    settings = [(one['engine'], one['threads'], one['images']) for one in saved['runner']]
    assert ('openvino', 1, 1) in settings and ('openvino', 1, 4) in settings
    assert (('native', 1, 4) in settings) == native.available()
    for one in saved['runner']:
        if (one['threads'], one['images']) == (1, 1):
            assert one['wall_ratio'] == one['cpu_ratio'] == 1
    kernels = saved['kernels']
    assert 0 < kernels['binary_share'] < 1 and kernels['binary_macs'] > 1e6
    assert (tmp_path / 'out' / 'latency.png').stat().st_size > 5000
