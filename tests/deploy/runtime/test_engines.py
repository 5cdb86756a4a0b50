"""Both engines run an export, and the faster one is taken where it can be."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('openvino')

from mmesbnn import native
from mmesbnn.deploy import ExportError, Runner
from mmesbnn.deploy.openvino.export import export
from mmesbnn.deploy.runtime import openvino_graph
from mmesbnn.deploy.runtime.manifest import write_manifest
from mmesbnn.deploy.runtime.request_pool import RequestPool
from tests.deploy import exports
from tests.deploy.openvino.test_export import make_task

needs_library = pytest.mark.skipif(
    not native.available(), reason='the native kernels are not compiled'
)
PACKAGE = Path(__file__).resolve().parents[3]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('engines') / 'net'
    report = export(make_task(), out, dynamic_batch=True)
    assert report.native.startswith('model.native')
    assert len(report.native_agreements) == native.available()
    return out


def images(count=5):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (32, 32, 3), np.uint8) for _ in range(count)]


@needs_library
def test_both_engines_give_the_same_results(folder):
    runner, other = Runner(folder), Runner(folder, engine='openvino')
    assert (runner.engine, other.engine) == ('native', 'openvino')
    assert runner.engine_reason == 'the export has model.native'
    assert other.engine_reason == "engine='openvino' was requested"
    ours = runner(images(), batch_size=3)
    for one, two in zip(ours, other(images(), batch_size=3)):
        assert one['pred_label'] == two['pred_label']
        np.testing.assert_allclose(one['pred_scores'], two['pred_scores'], atol=1e-3)
    for threads in (1, 2):
        again = Runner(folder, engine='native', threads=threads)(images())
        for one, two in zip(ours, again):
            np.testing.assert_array_equal(one['pred_scores'], two['pred_scores'])


@needs_library
@pytest.mark.parametrize('jobs', [None, 1, 3])
def test_a_stream_keeps_the_order(folder, jobs, tmp_path):
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'no image')
    sources = [*images(9), broken, *images(2)]
    runner = Runner(folder, threads=2)
    alone = runner(images(9))
    results = list(runner.stream(iter(sources), jobs=jobs, return_errors=True))
    assert len(results) == 12 and 'broken.png' in str(results[9])
    for one, two in zip([*alone, *alone[:2]], [*results[:9], *results[10:]]):
        np.testing.assert_array_equal(one['pred_scores'], two['pred_scores'])


@needs_library
@pytest.mark.parametrize(
    ('threads', 'count', 'calls'),
    [(1, 5, [(5, 1)]), (2, 5, [(1, 1)] * 4 + [(1, 2)]), (3, 2, [(2, 3)]), (2, 1, [(1, 2)])],
)
def test_images_of_a_batch_share_the_cores(folder, monkeypatch, threads, count, calls):
    expected, runner = Runner(folder, threads=1)(images(count)), Runner(folder, threads=threads)
    seen, run = [], native.Engine.run

    def spied(self, batch, *, threads):
        seen.append((len(batch), threads))
        return run(self, batch, threads=threads)

    monkeypatch.setattr(native.Engine, 'run', spied)
    results = runner(images(count), batch_size=count)
    assert sorted(seen) == calls
    for one, two in zip(results, expected):
        np.testing.assert_array_equal(one['pred_scores'], two['pred_scores'])


def shapes_that_run(monkeypatch):
    """Return a list that grows by the shape of every array that OpenVINO runs."""
    seen, infer = [], RequestPool.infer

    def spied(self, arrays):
        seen.append(arrays[0].shape)
        return infer(self, arrays)

    monkeypatch.setattr(RequestPool, 'infer', spied)
    return seen


@pytest.mark.parametrize('threads', [1, 2])
def test_openvino_runs_binary_batches_image_by_image(folder, monkeypatch, threads):
    runner = Runner(folder, engine='openvino', threads=threads)
    alone = runner(images())
    seen = shapes_that_run(monkeypatch)
    batches, stream = runner(images(), batch_size=5), list(runner.stream(images(), 5))
    assert seen == [(1, 3, 32, 32)] * 5
    for found in (batches, stream):
        for one, two in zip(alone, found):
            np.testing.assert_allclose(one['pred_scores'], two['pred_scores'], atol=1e-3)
    engine = runner._network.engine
    assert engine._graph.pool('THROUGHPUT', 1).network.get_property('NUM_STREAMS') == threads


def test_openvino_runs_float_batches_as_a_whole(tmp_path, monkeypatch):
    exports.write_classifier(tmp_path)
    seen = shapes_that_run(monkeypatch)
    Runner(tmp_path, threads=2)([image[:16, :16] for image in images()], batch_size=5)
    assert seen == [(5, 3, 16, 16)]


def test_openvino_is_taken_where_the_library_is_not_and_the_reason_is_given(folder, monkeypatch):
    monkeypatch.setattr(native, 'available', lambda: False)
    monkeypatch.setattr(native, 'problem', lambda: 'they were not compiled')
    with pytest.warns(UserWarning, match='OpenVINO instead of .* kernels: they were not compiled'):
        runner = Runner(folder)
    assert runner.engine == 'openvino'
    assert runner.engine_reason == 'the native kernels cannot be used: they were not compiled'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert Runner(folder, engine='openvino').engine == 'openvino'


def without_native(folder, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(folder, copy)
    (copy / 'model.native').unlink()
    content = json.loads((copy / 'manifest.json').read_text())
    del content['files']['model.native']
    (copy / 'manifest.json').write_text(json.dumps(content))
    return copy


def test_an_export_without_the_native_form(folder, tmp_path):
    copy = without_native(folder, tmp_path)
    runner = Runner(copy)
    assert runner.engine == 'openvino'
    # an export of an earlier version, whose manifest has no reason
    assert runner.engine_reason == 'the export has no model.native: see its report.json'
    with pytest.raises(ExportError, match=r"engine='native' cannot run it, because it has no"):
        Runner(copy, engine='native')
    report = export(make_task(), tmp_path / 'other', with_native=False)
    assert report.native is None
    assert not (tmp_path / 'other' / 'model.native').exists()
    reason = 'the export has no model.native: only the form for OpenVINO was requested'
    assert Runner(tmp_path / 'other').engine_reason == reason


def test_a_version_of_openvino_that_lost_the_operator(folder, monkeypatch):
    class Core:
        def read_model(self, path):
            raise RuntimeError('Cannot create BinaryConvolution layer from unsupported opset')

    monkeypatch.setattr(openvino_graph, 'shared_core', Core)
    with pytest.raises(ExportError, match='does not run the operator BinaryConvolution'):
        Runner(folder, engine='openvino')


@needs_library
def test_the_native_engine_runs_on_the_cpu(folder):
    assert Runner(folder, engine='native', device='CPU').engine == 'native'
    with pytest.raises(ValueError, match="device='GPU' must be 'CPU' with engine='native'"):
        Runner(folder, engine='native', device='GPU')


def test_an_engine_that_is_none(folder):
    with pytest.raises(ValueError, match="engine='fast'"):
        Runner(folder, engine='fast')


@needs_library
def test_a_native_form_that_was_changed(folder, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(folder, copy)
    raw = bytearray((copy / 'model.native').read_bytes())
    raw[-1] ^= 1
    (copy / 'model.native').write_bytes(raw)
    with pytest.raises(ExportError, match=r'model.native: changed since the export'):
        Runner(copy)
    with pytest.raises(ExportError, match='not that of its sha256'):
        Runner(copy, engine='native', verify=False)
    assert Runner(copy, engine='openvino', verify=False).engine == 'openvino'


@needs_library
def test_a_native_form_of_another_network(folder, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(folder, copy)
    manifest = Runner(folder).manifest
    content = json.loads((copy / 'manifest.json').read_text())
    content['inputs'][0]['shape'] = [-1, 3, 64, 64]
    (copy / 'manifest.json').write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r'takes \[3, 32, 32\] and gives \[10, 1, 1\]'):
        Runner(copy)
    write_manifest(copy, manifest)
    assert Runner(copy).engine == 'native'


@needs_library
def test_the_native_engine_needs_no_openvino(folder):
    code = (
        'import sys; sys.modules.update(openvino=None, torch=None); import numpy as np\n'
        'from mmesbnn.deploy import Runner\n'
        f'runner = Runner({str(folder)!r})\n'
        "print(runner.engine, runner(np.zeros((32, 32, 3), np.uint8))['pred_label'])"
    )
    run = subprocess.run(
        [sys.executable, '-c', code], cwd=PACKAGE, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.startswith('native '), run.stderr
