"""Train, test and resume with the command lines of users."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.datasets import write_digits

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MIM = Path(sys.executable).with_name('mim')
EPOCHS = 4

CONFIG = """
_base_ = [{base!r}]
data = dict(dataset=dict(data_root={data!r}))
# without workers: mmengine seeds those alike in every epoch, whatever ran before
train_dataloader = dict(batch_size=16, num_workers=0, **data)
val_dataloader = data
test_dataloader = data
train_cfg = dict(max_epochs={epochs})
custom_hooks = [
    dict(type='TemperatureHook', binary_from=2),
    dict(type='ParameterBoundsHook'),
    dict(type='SignFlipHook'),
    dict(type='NaNGuardHook'),
    dict(type='ClassCountHook'),
    dict(type='EpochSeedHook'),
]
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=-1))
{more}
"""


def environment():
    return {**os.environ, 'OMP_NUM_THREADS': '1'}


def run(folder, *command):
    """Run a command line in ``folder``; its output goes to one string."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=200,
    )


def train(folder, config, work_dir, *options):
    arguments = ('train', 'mmpretrain', config, '--work-dir', work_dir, *options)
    return run(folder, MIM, *arguments)


def write_config(folder, data, name='config.py', more=''):
    base = ROOT / 'configs' / 'demo' / 'es_bnext_digits.py'
    text = CONFIG.format(base=str(base), data=str(data), epochs=EPOCHS, more=more)
    (folder / name).write_text(text)
    return name


def write_few_digits(data, train=8, val=4):
    """Write the demo's images, but few of each class."""
    write_digits(data)
    for split, count in (('train', train), ('val', val)):
        for folder in (data / split).iterdir():
            for image in sorted(folder.iterdir())[count:]:
                image.unlink()


def logged(run_folder):
    """Return all logged values except times, by kind and step."""
    lines = (run_folder / 'vis_data' / 'scalars.json').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {
        ('train' if 'loss' in record else 'val', record['step']): {
            key: value for key, value in record.items() if 'time' not in key
        }
        for record in records
    }


def run_folders(work_dir):
    return sorted(path.parent for path in work_dir.glob('*/vis_data'))


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Make a folder with images and config; return also the config's name."""
    folder = tmp_path_factory.mktemp('project')
    write_few_digits(folder / 'digits')
    return folder, write_config(folder, folder / 'digits')


@pytest.fixture(scope='module')
def whole(project):
    """Return the work dir of an uninterrupted training."""
    folder, config = project
    done = train(folder, config, 'whole')
    assert done.returncode == 0, done.stdout[-3000:]
    return folder / 'whole'


def wait_for_first_checkpoint(process, work_dir):
    pointer = work_dir / 'last_checkpoint'
    deadline = time.monotonic() + 120
    while not (pointer.exists() and pointer.read_text()):
        assert process.poll() is None, 'training ended before its first checkpoint'
        assert time.monotonic() < deadline, 'no checkpoint in two minutes'
        time.sleep(0.01)


def interrupt_training(folder, config, work_dir):
    """Start a training and press Ctrl-C after its first checkpoint."""
    command = [MIM, 'train', 'mmpretrain', config, '--work-dir', work_dir]
    with (folder / 'interrupted.log').open('w') as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            start_new_session=True,
            stdout=log,
            stderr=log,
            # a shell's background job ignores Ctrl-C, and its children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            wait_for_first_checkpoint(process, work_dir)
            os.killpg(process.pid, signal.SIGINT)
            return process.wait(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope='module')
def resumed(project):
    """Return the work dir of an interrupted training and its saved epochs."""
    folder, config = project
    work_dir = folder / 'resumed'
    assert interrupt_training(folder, config, work_dir) != 0
    saved = Path((work_dir / 'last_checkpoint').read_text().strip()).stem
    epochs = int(saved.removeprefix('epoch_'))
    assert 1 <= epochs < EPOCHS
    # as if the write of the next checkpoint was interrupted by a power failure
    torn = work_dir / f'epoch_{epochs + 1}.pth'
    torn.write_bytes(b'PK')
    (work_dir / 'last_checkpoint').write_text(str(torn))
    done = train(folder, config, work_dir, '--resume')
    assert done.returncode == 0, done.stdout[-3000:]
    assert f'names {torn}, which is not whole' in done.stdout
    return work_dir, epochs


def test_training_leaves_logs_and_a_checkpoint_per_epoch(whole):
    assert sorted(path.name for path in whole.glob('*.pth')) == [
        f'epoch_{epoch + 1}.pth' for epoch in range(EPOCHS)
    ]
    (folder,) = run_folders(whole)
    records = logged(folder)
    assert len(records) == EPOCHS * (5 + 1)
    assert len({record.get('loss') for record in records.values()}) > EPOCHS * 4
    assert records['train', 1]['temperature'] == 1


def test_test_prints_the_accuracy_that_validation_logged(project, whole):
    folder, config = project
    checkpoint = whole / f'epoch_{EPOCHS}.pth'
    command = ('test', 'mmpretrain', config, '--checkpoint', checkpoint)
    done = run(folder, MIM, *command, '--work-dir', 'test')
    assert done.returncode == 0, done.stdout[-3000:]
    accuracy = re.search(r'Epoch\(test\).*accuracy/top1: ([\d.]+)', done.stdout)
    (validated,) = run_folders(whole)
    expected = logged(validated)['val', EPOCHS]['accuracy/top1']
    assert float(accuracy[1]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ('epoch', 'code', 'message'),
    [(EPOCHS, 0, 'every binary layer is binary'), (1, 1, '(temperature 1)')],
)
def test_binary_only_after_the_temperature_phase(project, whole, epoch, code, message):
    tool = ROOT / 'tools' / 'check_binary.py'
    checkpoint = whole / f'epoch_{epoch}.pth'
    done = run(project[0], sys.executable, tool, project[1], checkpoint)
    assert done.returncode == code, done.stdout
    assert message in done.stdout


def test_resumed_training_goes_on_after_its_last_whole_checkpoint(resumed):
    work_dir, epochs = resumed
    steps = [step for kind, step in logged(run_folders(work_dir)[-1]) if kind == 'val']
    # the resumed checkpoint may not have been validated before the end
    assert steps == list(range(epochs, EPOCHS + 1))


def test_resumed_training_logs_the_same_numbers(whole, resumed):
    work_dir, epochs = resumed
    (uninterrupted,) = run_folders(whole)
    expected = logged(uninterrupted)
    after = logged(run_folders(work_dir)[-1])
    assert len(after) == (EPOCHS - epochs) * (5 + 1) + 1
    assert after == {key: expected[key] for key in after}


def test_resumed_training_ends_with_the_same_weights(whole, resumed):
    name = f'epoch_{EPOCHS}.pth'
    expected, got = (read_checkpoint(folder / name)['state_dict'] for folder in (whole, resumed[0]))
    assert expected.keys() == got.keys()
    assert not [key for key in expected if not torch.equal(expected[key], got[key])]


def failure(folder, config):
    """Return the output of a training that must fail, without mim's own traceback."""
    done = train(folder, config, 'failed')
    assert done.returncode != 0
    assert not list((folder / 'failed').glob('*.pth'))
    return done.stdout


def test_without_the_import_the_message_names_the_missing_component(project, tmp_path):
    config = write_config(tmp_path, project[0] / 'digits', more='custom_imports = None')
    assert 'BNext is not in the mmpretrain::model registry' in failure(tmp_path, config)


def test_classes_that_the_head_lacks_are_counted(project, tmp_path):
    more = 'model = dict(head=dict(num_classes=5))'
    config = write_config(tmp_path, project[0] / 'digits', more=more)
    message = 'num_classes=5 in the head, but the data of train_dataloader has 10'
    assert message in failure(tmp_path, config)


def test_missing_images_are_named(tmp_path):
    missing = tmp_path / 'nowhere'
    config = write_config(tmp_path, missing)
    message = f"No such file or directory: '{missing / 'train'}'"
    assert message in failure(tmp_path, config)


def test_a_class_without_images_is_named(tmp_path):
    data = tmp_path / 'digits'
    write_few_digits(data, train=1, val=1)
    for image in (data / 'train' / '3').iterdir():
        image.unlink()
    config = write_config(tmp_path, data, more='train_cfg = dict(max_epochs=1)')
    done = train(tmp_path, config, 'trained')
    # a warning of mmpretrain's: classes may be empty
    assert 'Found no valid file in the folder 3' in done.stdout
