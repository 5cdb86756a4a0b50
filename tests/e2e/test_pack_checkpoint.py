"""tools/pack_checkpoint.py as a user runs it."""

import os
import subprocess
import sys

import pytest
import torch

from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.deploy import load_packed
from tests.analysis.digits import TOOLS, build, run_tool, set_temperature, write_trained

pytest.importorskip('mmpretrain')
pytest.importorskip('safetensors')


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Return config, checkpoint as mmengine saves it, and its model."""
    folder = tmp_path_factory.mktemp('project')
    path = folder / 'epoch_1.pth'
    config, model = write_trained(folder, path)
    return config, path, model


@pytest.fixture
def pack(monkeypatch, capsys):
    def run(*args):
        code = run_tool('pack_checkpoint.py', *args, monkeypatch=monkeypatch)
        return code, *capsys.readouterr()

    return run


def outputs(model):
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        return model(torch.randn(4, 3, 16, 16, generator=generator))[-1]


def test_in_a_process_of_its_own(project, tmp_path):
    _, checkpoint, model = project
    done = subprocess.run(
        [sys.executable, TOOLS / 'pack_checkpoint.py', checkpoint, 'net.safetensors'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    for part in ('bits of binary weights', 'whole file', 'nothing is rounded'):
        assert part in done.stdout
    loaded = load_packed(tmp_path / 'net.safetensors')
    assert torch.equal(outputs(loaded), outputs(model))
    assert loaded._dataset_meta == {'classes': ['0', '1', '2']}


def test_weights_alone_need_a_config(project, pack, tmp_path):
    config, _, model = project
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    out = tmp_path / 'net.safetensors'
    code, _, err = pack(tmp_path / 'weights.pth', out)
    assert code == 2
    assert 'holds no config' in err
    code, printed, _ = pack(tmp_path / 'weights.pth', out, '--config', config, '--half')
    assert code == 0
    assert 'rounded to half precision' in printed
    assert load_packed(out).backbone.expansion.tau == 2


def test_a_checkpoint_in_its_temperature_phase(project, pack, tmp_path):
    config, _, _ = project
    soft = set_temperature(build(config), 0.5)
    torch.save(soft.state_dict(), tmp_path / 'soft.pth')
    out = tmp_path / 'net.safetensors'
    code, _, err = pack(tmp_path / 'soft.pth', out, '--config', config)
    assert code == 2
    assert 'cannot pack backbone.stages.0.0.spatial.conv: its temperature is 0.5' in err
    assert not out.exists()


def test_a_config_in_the_checkpoint_is_not_run(project, pack, tmp_path):
    _, checkpoint, _ = project
    content = read_checkpoint(checkpoint)
    trace = tmp_path / 'trace'
    content['meta']['cfg'] = f"x = __import__('os').mkdir({str(trace)!r})"
    torch.save(content, tmp_path / 'evil.pth')
    code, _, err = pack(tmp_path / 'evil.pth', tmp_path / 'net.safetensors')
    assert code == 2
    assert 'name the config' in err
    assert not trace.exists()


def test_wrong_files(project, pack, tmp_path):
    config, checkpoint, _ = project
    code, _, err = pack(tmp_path / 'nowhere.pth', tmp_path / 'x.safetensors')
    assert (code, 'No such file' in err) == (2, True)
    code, _, err = pack(checkpoint, tmp_path / 'nowhere' / 'x.safetensors')
    assert (code, 'nowhere/x.safetensors' in err) == (2, True)
    for out in (checkpoint, config):
        before = out.read_bytes()
        code, _, err = pack(checkpoint, out, '--config', config)
        assert (code, 'overwrite' in err, out.read_bytes() == before) == (2, True, True)
    (tmp_path / 'text.pth').write_text('no checkpoint')
    code, _, err = pack(tmp_path / 'text.pth', tmp_path / 'x.safetensors')
    assert (code, 'damaged or no file of torch.save' in err) == (2, True)
