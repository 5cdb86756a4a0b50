"""ES-BiDet's SSD300 with command lines, on a small real devkit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

from mmesbnn.datasets import VOC_CLASSES, write_mini_voc
from tests.reference.published_bidet_ssd import Network, random_state

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MIM = Path(sys.executable).with_name('mim')
RECIPE = 'configs/es_bidet/es-bidet-ssd300_2xb16-300k_voc0712.py'

CONFIG = """
_base_ = [{base!r}]
widths = (32, 64, 32, 16, 16, 16)
model = dict(
    backbone=dict(
        arch=dict(channels=[4, 4, 8, 16, 32, 32, 64], depths=[1, 3, 4, 4, 4]),
        init_cfg=None),
    neck=dict(in_channels=widths[:2], out_channels=widths),
    bbox_head=dict(in_channels=widths))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""


def run(folder, *command):
    """Run a command line in ``folder``; its output goes to one string."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        text=True,
        timeout=500,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A folder with a devkit, a config, and a work dir of a short training."""
    folder = tmp_path_factory.mktemp('project')
    devkit = folder / 'data' / 'VOCdevkit'
    write_mini_voc(devkit, names=VOC_CLASSES[:10], counts=(2, 2, 2))
    (folder / 'config.py').write_text(CONFIG.format(base=str(ROOT / RECIPE)))
    command = ('train', 'mmdet', 'config.py', '--work-dir', 'work', '--launcher', 'none')
    done = run(folder, MIM, *command)
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'bottleneck terms off' in done.stdout
    return folder, done.stdout


def metric(output, stage):
    found = re.findall(rf'\({stage}\).*pascal_voc/mAP: ([\d.]+)', output)
    return float(found[-1])


def test_test_prints_the_map_of_the_last_validation(project):
    folder, trained = project
    command = ('test', 'mmdet', 'config.py', '--checkpoint', 'work/iter_2.pth')
    done = run(folder, MIM, *command, '--work-dir', 'test')
    assert done.returncode == 0, done.stdout[-3000:]
    assert metric(done.stdout, 'test') == metric(trained, 'val')


def test_the_trained_network_is_binary(project):
    tool = ROOT / 'tools' / 'check_binary.py'
    done = run(project[0], sys.executable, tool, 'config.py', 'work/iter_2.pth')
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'every binary layer is binary' in done.stdout


def test_operations_and_the_input_size_are_printed(tmp_path):
    tool = ROOT / 'tools' / 'count_ops.py'
    done = run(tmp_path, sys.executable, tool, ROOT / RECIPE)
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'input 1 x 3 x 300 x 300\n' in done.stdout
    assert '32.63e8 = 2.63 G FP MACs + 40.49 G BOPs / 64' in done.stdout


def test_a_published_file_becomes_one_that_mmdet_tests(project):
    folder, _ = project
    net = Network(widths=(4, 4, 8, 16, 32, 32), tail=64, extras=(16, 32, 8, 16, 8, 16, 8, 16))
    state = {
        k: v.long() if k.endswith('num_batches_tracked') else v.float()
        for k, v in random_state(net).items()
    }
    torch.save(dict(weight=state, opt={}), folder / 'published.pth')
    tool = ROOT / 'tools' / 'convert_checkpoint.py'
    done = run(folder, sys.executable, tool, 'published.pth', 'converted.pth')
    assert done.returncode == 0, done.stdout
    assert 'BiDet SSD300' in done.stdout
    options = ('model.backbone.tau=1', 'model.backbone.sign_zero=0')
    options += ('model.neck.tau=1', 'model.neck.sign_zero=0')
    command = ('test', 'mmdet', 'config.py', '--checkpoint', 'converted.pth')
    done = run(folder, MIM, *command, '--work-dir', 'test', '--cfg-options', *options)
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'size mismatch' not in done.stdout
    assert 'missing keys' not in done.stdout
    assert 0 <= metric(done.stdout, 'test') <= 1
