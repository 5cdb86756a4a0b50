"""tools/export_onnx.py as a user runs it."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mmesbnn.analysis import count_ops, load_config, real_batch
from mmesbnn.deploy import pack
from tests.analysis.digits import TOOLS, build, run_tool, set_temperature, write_project

pytest.importorskip('mmpretrain')
pytest.importorskip('onnx')
runtime = pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp('project')
    config = write_project(folder)
    model = set_temperature(build(config), 0.0).eval()
    torch.save(model.state_dict(), folder / 'weights.pth')
    pack(model, folder / 'net.safetensors', config=load_config(config))
    return folder, config, model


@pytest.fixture
def export(monkeypatch, capsys):
    def run(*args):
        code = run_tool('export_onnx.py', *args, monkeypatch=monkeypatch)
        return code, *capsys.readouterr()

    return run


def test_in_a_process_of_its_own(project, tmp_path):
    folder, config, _ = project
    done = subprocess.run(
        [sys.executable, TOOLS / 'export_onnx.py', config, folder / 'weights.pth', 'net.onnx'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    assert 'compared with torch on 4 test images of the config' in done.stdout
    assert 'logits: differs by ' in done.stdout
    batch = real_batch(load_config(config), 5)
    model = build(config)
    x = model.data_preprocessor(batch, False)['inputs']
    session = runtime.InferenceSession(tmp_path / 'net.onnx')
    logits = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert logits.shape == (5, 3)


def test_a_packed_file_gives_the_same_network(project, export, tmp_path):
    folder, config, _ = project
    for name, args in {
        'a.onnx': (config, folder / 'weights.pth'),
        'b.onnx': (folder / 'net.safetensors',),
    }.items():
        code, out, err = export(*args, tmp_path / name)
        assert code == 0, err
        assert f'wrote {tmp_path / name}' in out
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 20)).astype(np.float32)
    logits = []
    for name in ('a.onnx', 'b.onnx'):
        session = runtime.InferenceSession(tmp_path / name)
        logits += session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_array_equal(*logits)


def test_qonnx_of_a_checkpoint_and_of_a_packed_file(project, export, tmp_path):
    pytest.importorskip('qonnx')
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    folder, config, model = project
    x = model.data_preprocessor(real_batch(load_config(config), 1), False)['inputs']
    with torch.no_grad():
        expected = model(x).numpy()
    total, found = count_ops(model, x).total, []
    for name, files in {
        'a.onnx': (config, folder / 'weights.pth'),
        'b.onnx': (folder / 'net.safetensors',),
    }.items():
        code, out, err = export(*files, tmp_path / name, '--form', 'qonnx', '--images', '2')
        assert code == 0, err
        assert 'compared with torch on 2 ' in out
        assert f'{total["bops"]} multiplications BIPOLAR x BIPOLAR' in out
        assert f'{total["fp_macs"]} multiplications FLOAT32 x FLOAT32' in out
        graph = ModelWrapper(str(tmp_path / name)).transform(InferShapes())
        found += execute_onnx(graph, {graph.graph.input[0].name: x.numpy()}).values()
    np.testing.assert_array_equal(*found)
    # a value next to a threshold may flip; tests/deploy/test_qonnx.py keeps away from them
    assert np.linalg.norm(found[0] - expected) < 0.1 * np.linalg.norm(expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.onnx', 'b.onnx']


@pytest.mark.parametrize('form', ['onnx', 'qonnx'])
def test_no_file_that_is_read_is_overwritten(project, export, form):
    folder, config, _ = project
    for *args, out in (
        (config, folder / 'weights.pth', config),
        (config, folder / 'weights.pth', folder / 'weights.pth'),
        (folder / 'net.safetensors', folder / 'net.safetensors'),
    ):
        before = out.read_bytes()
        code, _, err = export(*args, out, '--form', form)
        assert (code, out.read_bytes() == before) == (2, True)
        assert f'Would overwrite the file that is read: {out}' in err


def test_what_goes_wrong(project, export, tmp_path):
    folder, config, model = project
    set_temperature(model, 0.5)
    torch.save(model.state_dict(), tmp_path / 'soft.pth')
    for args, words in [
        ((config, tmp_path / 'soft.pth', tmp_path / 'x.onnx'), 'its temperature is'),
        ((config, tmp_path / 'no.pth', tmp_path / 'x.onnx'), 'No such file'),
        ((config, tmp_path / 'x.onnx'), 'give a config and a checkpoint'),
        ((folder / 'net.safetensors', tmp_path / 'no' / 'x.onnx'), 'no/x.onnx'),
        (
            (
                *(folder / 'net.safetensors', tmp_path / 'x.onnx'),
                *('--form', 'qonnx', '--fixed-batch'),
            ),
            '--fixed-batch is for --form onnx',
        ),
        (
            (folder / 'net.safetensors', tmp_path / 'x.onnx', '--images', 0),
            "argument --images: '0'",
        ),
    ]:
        code, _, err = export(*args)
        assert code == 2, args
        assert words in err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ['soft.pth']
