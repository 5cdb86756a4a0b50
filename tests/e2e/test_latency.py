"""tools/benchmarks/latency.py as a user runs it, on a narrow network."""

import json
import runpy

import pytest
import torch

pytest.importorskip('openvino')

from tests.analysis.digits import TOOLS, run_tool, write_project


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
    kernels = saved['kernels']
    assert 0 < kernels['binary_share'] < 1 and kernels['binary_macs'] > 1e6
    assert (tmp_path / 'out' / 'latency.png').stat().st_size > 5000


def test_published_style_computes_the_same():
    from mmesbnn.analysis.lifelike import lifelike
    from mmesbnn.models.backbones import BNext

    tool = runpy.run_path(str(TOOLS / 'benchmarks' / 'latency.py'))

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = BNext(dict(channels=[16, 32, 32, 64]), tau=2)

        def forward(self, x):
            return self.backbone(x)[-1].mean((2, 3))

    model = lifelike(Features(), torch.randn(2, 3, 224, 224))
    published = tool['published_style'](model)
    assert not [m for m in published.modules() if type(m).__name__ == 'ShrunkConv2d']
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(published.double()(x), model.double()(x))
