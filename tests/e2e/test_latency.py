"""tools/benchmarks/latency.py as a user runs it, on narrow networks."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mmesbnn import native

pytest.importorskip('openvino')

from tests.analysis.digits import TOOLS, run_tool, write_project

DETECTOR = TOOLS.parent / 'configs' / 'demo' / 'es_bnext_fcos_mini_voc.py'


def native_forms():
    """Return the names of the native contenders on this machine."""
    names = native.instruction_sets() if native.available() else []
    return {'native 1-bit', *(f'native 1-bit, {name}' for name in names[1:])} if names else set()


def read(folder, name):
    return json.loads((folder / name).read_text())


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
    assert '1 core, batch 1' in out and 'binary kernels:' in out
    assert '| `config` | published style, eager |' in out
    saved = read(tmp_path / 'out', 'latency.json')
    assert saved['shape'] == [3, 16, 20]  # the config's test size
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


def test_networks_in_one_table(tmp_path, monkeypatch, capsys):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')
    config = write_project(tmp_path)
    arguments = ('--networks', config, DETECTOR, '--quick', '--seconds', 0.05)
    code = run_tool('benchmarks/latency.py', *arguments, '--out', tmp_path, monkeypatch=monkeypatch)
    out, err = capsys.readouterr()
    assert code == 0, err
    assert '| `config`, 16x20 | published style, eager |' in out
    assert '| `es_bnext_fcos_mini_voc`, 96x96 | published style, eager |' in out
    saved = read(tmp_path, 'networks.json')
    classifier, detector = saved['networks']
    assert detector['boxes'] > 0 and detector['shape'] == [3, 96, 96]
    for network in (classifier, detector):
        (result,) = network['results']
        expected = {'published style, eager', 'OpenVINO 1-bit', *native_forms()}
        assert set(result['median_ms']) == expected
        assert all(len(taken) >= 3 for taken in result['times_ms'].values())
    if native.available():
        assert native.instruction_sets() == saved['instruction_sets']


def test_a_config_of_another_kind(tmp_path, monkeypatch, capsys):
    pytest.importorskip('mmdet')
    script = 'benchmarks/latency.py'
    arguments = ('--quick', '--out', tmp_path / 'out')
    assert run_tool(script, '--config', DETECTOR, *arguments, monkeypatch=monkeypatch) == 2
    assert 'is a detector, use --networks' in capsys.readouterr().err
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'mmengine'\nmodel = dict(type='BNext')\n")
    assert run_tool(script, '--networks', config, *arguments, monkeypatch=monkeypatch) == 2
    assert "default_scope='mmengine' must be mmpretrain or mmdet" in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('option', 'name'),
    [('--config', 'latency.json'), ('--config', 'latency.png'), ('--networks', 'networks.json')],
)
def test_a_config_is_not_overwritten(tmp_path, monkeypatch, capsys, option, name):
    (tmp_path / name).touch()
    arguments = (option, tmp_path / name, '--quick', '--out', tmp_path)
    assert run_tool('benchmarks/latency.py', *arguments, monkeypatch=monkeypatch) == 2
    assert 'Would overwrite the file that is read' in capsys.readouterr().err


@pytest.mark.skipif(platform.machine() not in ('x86_64', 'AMD64'), reason='AVX2 is of x86')
def test_avx2_only(tmp_path):
    config = write_project(tmp_path)
    script = TOOLS / 'benchmarks' / 'latency.py'
    options = ['--avx2', '--networks', config, '--quick', '--seconds', '0.05', '--out', tmp_path]
    done = subprocess.run(
        [sys.executable, script, *options],
        env={**os.environ, 'PYTHONPATH': str(Path(native.__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    saved = read(tmp_path, 'networks-avx2.json')
    assert saved['avx2_only'] and saved['torch_instruction_set'] != 'AVX512'
    assert not any(name.startswith(('amx', 'avx512')) for name in saved['instruction_sets'])
    assert 'OpenVINO 1-bit' in saved['networks'][0]['results'][0]['median_ms']


@pytest.mark.parametrize(
    'options',
    [
        ('--networks', '--only', 'OpenVINO fp32'),
        ('--avx2', '--only', 'ONNX Runtime fp32'),
        ('--quick', '--only', 'torch.compile'),
        ('--networks', '--compile-batches'),
        ('--networks', '--config', 'x.py'),
    ],
)
def test_options_that_would_do_nothing(options, monkeypatch, capsys):
    if '--avx2' in options and platform.machine() not in ('x86_64', 'AMD64'):
        pytest.skip('AVX2 is of x86')
    assert run_tool('benchmarks/latency.py', *options, monkeypatch=monkeypatch) == 2
    assert 'error: ' in capsys.readouterr().err
