"""tools/check_binary.py as a user runs it."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from mmesbnn.checkpoints import read_checkpoint
from tests.analysis.digits import TOOLS, build, run_tool, set_temperature, write_project


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Write config, binary checkpoint, and an earlier checkpoint that is not binary."""
    folder = tmp_path_factory.mktemp('project')
    config = write_project(folder)
    model = build(config)
    for name, temperature in (('hard.pth', 0.0), ('soft.pth', 0.5)):
        state = set_temperature(model, temperature).state_dict()
        torch.save({'state_dict': state, 'meta': {}}, folder / name)
    return config, folder / 'hard.pth', folder / 'soft.pth'


@pytest.fixture
def check(monkeypatch, capsys):
    def run(*args):
        capsys.readouterr()  # the text that the test printed itself
        code = run_tool('check_binary.py', *args, monkeypatch=monkeypatch)
        return code, *capsys.readouterr()

    return run


def test_binary_network_in_a_process_of_its_own(project, tmp_path):
    config, hard, _ = project
    done = subprocess.run(
        [sys.executable, TOOLS / 'check_binary.py', config, hard],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    assert 'every binary layer is binary' in done.stdout


def test_names_the_layers_that_are_not(project, check):
    config, _, soft = project
    code, out, _ = check(config, soft)
    assert code == 1
    names = [line.split(':')[0] for line in out.splitlines()]
    assert len(names) == len(set(names)) == 8
    assert all(name.endswith('.conv') and 'stem' not in name for name in names)
    assert 'temperature 0.5' in out


def test_one_bad_layer(project, tmp_path, check):
    config, hard, _ = project
    content = read_checkpoint(hard)
    name = 'backbone.stages.1.0.spatial.conv'
    content['state_dict'][f'{name}.weight'][3, 0, 0, 0] = float('nan')
    torch.save(content, tmp_path / 'nan.pth')
    code, out, _ = check(config, tmp_path / 'nan.pth', '--batch', 2)
    assert code == 1
    # first the broken layer, then the layers that its NaNs reach
    assert out.startswith(f'{name}: weights hold nan in output channel 3')


def test_a_network_that_never_was_binary(project, tmp_path, check):
    config, _, _ = project
    text = config.read_text().replace(
        "dict(\n        type='BNext', arch=dict(channels=[16, 32, 32, 64]), tau=2, stem_stride=1)",
        "dict(type='ResNet', depth=18)",
    )
    other = tmp_path / 'resnet.py'
    other.write_text(text.replace('in_channels=64', 'in_channels=512'))
    torch.save(build(other).state_dict(), tmp_path / 'resnet.pth')
    code, out, _ = check(other, tmp_path / 'resnet.pth')
    assert (code, out.strip()) == (1, 'no binary layer ran')
    code, _, err = check(config, tmp_path / 'resnet.pth')
    assert code == 2
    assert 'is not a checkpoint of this model' in err
    assert len(err.strip().splitlines()[-1]) < 500


def test_truncated_checkpoint(project, tmp_path, check):
    config, hard, _ = project
    broken = tmp_path / 'broken.pth'
    broken.write_bytes(hard.read_bytes()[:-1000])
    code, _, err = check(config, broken)
    assert code == 2
    assert 'broken.pth: is truncated' in err.strip().splitlines()[-1]


def test_missing_checkpoint(project, check):
    config, _, _ = project
    code, _, err = check(config, 'nowhere.pth')
    assert code == 2
    assert 'nowhere.pth: No such file or directory' in err


@pytest.mark.parametrize('folders', [(), ('0', '1', '2')])
def test_no_data(project, tmp_path, check, folders):
    config, hard, _ = project
    for folder in folders:
        (tmp_path / 'data' / 'val' / folder).mkdir(parents=True)
    options = ('--cfg-options', f'test_dataloader.dataset.data_root={tmp_path / "data"}')
    code, _, err = check(config, hard, *options)
    assert code == 2
    assert 'cannot read the test data' in err
    assert 'Traceback' not in err


def test_damaged_image(project, tmp_path, check):
    config, hard, _ = project
    shutil.copytree(config.parent / 'val', tmp_path / 'val')
    for image in tmp_path.glob('val/*/*.png'):
        image.write_bytes(b'no image')
    options = ('--cfg-options', f'test_dataloader.dataset.data_root={tmp_path}')
    code, _, err = check(config, hard, *options)
    assert code == 2
    assert 'cannot read the test data' in err


def test_batch_must_be_positive(project, check):
    code, _, err = check(*project[:2], '--batch', 0)
    assert code == 2
    assert '--batch' in err and "'0'" in err
