"""tools/export.py as a user runs it."""

import json
import os
import shutil
import sys

import pytest
import torch

pytest.importorskip('openvino')

import numpy as np

from mmesbnn import native
from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.deploy import Runner
from mmesbnn.deploy.runtime.network import ENGINES
from tests.analysis.digits import build, run_tool, set_temperature, write_project
from tests.deploy.apart import apart


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Write config, model, its checkpoint, and an earlier one that is not binary."""
    folder = tmp_path_factory.mktemp('project')
    config = write_project(folder)
    model = lifelike(build(config), torch.randn(8, 3, 16, 20))
    for name, temperature in (('soft.pth', 0.5), ('hard.pth', 0.0)):
        state = set_temperature(model, temperature).state_dict()
        torch.save({'state_dict': state, 'meta': {}}, folder / name)
    return config, model, folder / 'hard.pth', folder / 'soft.pth'


@pytest.fixture
def export(monkeypatch, capsys):
    def run(*args):
        code = run_tool('export.py', *args, monkeypatch=monkeypatch)
        return code, *capsys.readouterr()

    return run


def test_exports_verifies_and_runs(project, tmp_path, export):
    config, model, hard, _ = project
    code, out, err = export(config, hard, '--out', tmp_path / 'net', '--strict')
    assert code == 0, err
    assert '8 of 8 binary layers run on bits' in out
    assert 'compared with torch on 4 test images of the config' in out
    assert ' of 4 examples; top-1 agrees for ' in out
    assert 'model.native' in out and 'for mmesbnn.native' in out
    x = apart(model, lambda: torch.randn(1, 3, 16, 20))
    with torch.no_grad():
        expected = model(x).numpy()
    for engine in ENGINES if native.available() else ['openvino']:
        runner = Runner(tmp_path / 'net', engine=engine, threads=1)
        logits = runner.infer(x.numpy())['logits']
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-5)


def test_the_former_name_does_the_same(project, tmp_path, monkeypatch, capsys):
    config, _, hard, _ = project
    args = (config, hard, '--out', tmp_path / 'net', '--no-native', '--images', 1)
    assert run_tool('export_openvino.py', *args, monkeypatch=monkeypatch) == 0
    assert 'model.native' not in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / 'net').iterdir()) == [
        'manifest.json',
        'model.bin',
        'model.xml',
        'report.json',
    ]


def test_names_of_files_that_are_no_text(project, tmp_path, export):
    config, _, hard, _ = project
    weights = tmp_path / os.fsdecode(b'w\xff\n.pth')
    shutil.copy(hard, weights)
    code, _, err = export(config, weights, '--out', tmp_path / 'net', '--no-native', '--images', 1)
    assert code == 0, err
    source = json.loads((tmp_path / 'net' / 'manifest.json').read_text())['source']
    assert source == {'config': config.name, 'checkpoint': r'w\udcff .pth'}


def test_any_batch_in_half_precision_of_another_shape(project, tmp_path, export):
    config, _, hard, _ = project
    code, _, err = export(
        config,
        hard,
        '--out',
        tmp_path / 'net',
        '--half',
        '--dynamic-batch',
        '--shape',
        24,
        '--images',
        1,
    )
    assert code == 0, err
    runner = Runner(tmp_path / 'net', threads=1)
    assert runner.manifest.inputs[0].shape == (-1, 3, 24, 24)
    x = np.random.default_rng(0).standard_normal((3, 3, 24, 24), np.float32)
    together = runner.infer(x)['logits']
    alone = np.concatenate([runner.infer(image[None])['logits'] for image in x])
    # except for flipped signs
    assert np.linalg.norm(together - alone) < 0.05 * np.linalg.norm(alone)


def test_a_network_that_is_not_binary_yet(project, tmp_path, export):
    config, _, _, soft = project
    code, _, err = export(config, soft, '--out', tmp_path / 'net')
    assert code == 2
    assert 'backbone.stages.0.0.spatial.conv: its temperature is 0.5' in err
    assert not (tmp_path / 'net').exists()


def test_output_that_cannot_be_written(project, tmp_path, export):
    config, _, hard, _ = project
    (tmp_path / 'file').write_text('mine')
    code, _, err = export(config, hard, '--out', tmp_path / 'file')
    assert code == 2 and 'is a file, and must be a folder' in err
    assert (tmp_path / 'file').read_text() == 'mine'


def test_a_folder_with_the_checkpoint_is_not_replaced(project, tmp_path, export):
    config, _, hard, _ = project
    checkpoint = tmp_path / 'net' / 'model.bin'
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(hard.read_bytes())
    code, _, err = export(config, checkpoint, '--out', tmp_path / 'net')
    assert code == 2 and 'Would overwrite the file that is read' in err
    assert checkpoint.read_bytes() == hard.read_bytes()


def test_missing_openvino(project, tmp_path, export, monkeypatch):
    config, _, hard, _ = project
    monkeypatch.setitem(sys.modules, 'openvino', None)
    code, _, err = export(config, hard, '--out', tmp_path / 'net')
    assert code == 2
    assert "pip install 'mmesbnn[deploy]'" in err


@pytest.mark.parametrize(
    'args, told',
    [
        (('--shape', '0'), "--shape: '0' must be"),
        (('--shape', '8', '8', '8'), '--shape [8, 8, 8]: must be one or two numbers'),
        (('--images', '0'), "--images: '0' must be"),
    ],
)
def test_bad_arguments(project, tmp_path, export, args, told):
    config, _, hard, _ = project
    code, _, err = export(config, hard, '--out', tmp_path / 'net', *args)
    assert code == 2 and told in err


def test_a_config_needs_a_checkpoint(project, tmp_path, export):
    code, _, err = export(project[0], '--out', tmp_path / 'net')
    assert code == 2 and 'a packed file alone' in err
