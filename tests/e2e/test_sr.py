"""Train, resume, test and export super-resolution with command lines."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.evaluation import psnr
from mmesbnn.images.tensors import read_rgb
from tests.analysis.digits import run_tool
from tests.datasets.sr_folders import write_benchmark, write_df2k
from tests.engine import sr_runs

pytest.importorskip('diffusers')
pytestmark = pytest.mark.slow

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
ITERS = 4


def start(folder, tool, *args):
    """Run a tool in ``folder`` in its own process; it must succeed."""
    done = subprocess.run(
        [sys.executable, TOOLS / tool, *(str(arg) for arg in args)],
        cwd=folder,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        text=True,
        timeout=300,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def run(folder, tool, *args):
    """Run a tool in this process, without new imports; return its output."""
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as output:
        patch.chdir(folder)
        with contextlib.redirect_stdout(output):
            code = run_tool(tool, *args, monkeypatch=patch)
        assert code == 0, output.getvalue()[-3000:]
        return output.getvalue()


def write_config(folder, root, name='config.py', work_dir=None, **kwargs):
    cfg = sr_runs.config(root, work_dir, iters=ITERS, log_level='INFO', **kwargs)
    if work_dir is None:
        cfg.pop('work_dir')
    Config(cfg).dump(folder / name)
    return folder / name


def test_a_config_names_its_work_dir(root, tmp_path):
    config = write_config(tmp_path, root, work_dir='named')
    run(tmp_path, 'train_sr.py', config)
    assert (tmp_path / 'named' / f'iter_{ITERS}.pth').is_file()
    assert not (tmp_path / 'work_dirs').exists()


def test_a_config_may_resume(root, tmp_path):
    config = write_config(tmp_path, root, work_dir='named')
    run(tmp_path, 'train_sr.py', config)
    first = tmp_path / 'named' / 'iter_2.pth'
    written = first.stat().st_mtime_ns
    run(tmp_path, 'train_sr.py', config, '--cfg-options', 'resume=True')
    assert first.stat().st_mtime_ns == written


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_benchmark(root, sizes=((44, 52), (48, 44)))
    return write_df2k(root, sizes=((32, 40), (40, 32)))


@pytest.fixture(scope='module')
def project(root, tmp_path_factory):
    """Make a folder with a config and the work dir of a finished training."""
    folder = tmp_path_factory.mktemp('project')
    config = write_config(folder, root)
    start(folder, 'train_sr.py', config)
    return folder, config, folder / 'work_dirs' / 'config'


def records(work_dir):
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def state(path):
    return read_checkpoint(path)['state_dict']


def test_training_logs_losses_and_figures(project):
    log = records(project[2])
    assert len({record['loss'] for record in log if 'loss' in record}) == ITERS
    figures = [record for record in log if 'Set5/PSNR' in record]
    assert [record['step'] for record in figures] == [2, 4]
    assert all(0 < record['Set5/SSIM'] < 1 for record in figures)
    assert (project[2] / 'iter_4.pth').exists()


def test_resumed_training_ends_with_the_same_weights(project, tmp_path):
    _, config, whole = project
    run(
        tmp_path,
        'train_sr.py',
        config,
        '--work-dir',
        'parts',
        '--cfg-options',
        'train_cfg.max_iters=2',
        'train_dataloader.num_workers=1',
    )
    run(tmp_path, 'train_sr.py', config, '--work-dir', 'parts', '--resume')
    expected, got = (state(f / 'iter_4.pth') for f in (whole, tmp_path / 'parts'))
    assert expected.keys() == got.keys()
    assert not [key for key in expected if not torch.equal(expected[key], got[key])]


@pytest.fixture(scope='module')
def tested(project, tmp_path_factory):
    """Return the output of a test with images and export, and their folder."""
    folder = tmp_path_factory.mktemp('tested')
    output = run(
        folder,
        'test_sr.py',
        project[1],
        project[2] / 'iter_4.pth',
        '--out',
        'images',
        '--export',
        'pipeline',
    )
    return output, folder


def test_test_prints_the_figures_of_the_images_it_writes(project, tested, root):
    output, folder = tested
    printed = float(re.search(r'Iter\(test\).*Set5/PSNR: ([\d.]+)', output)[1])
    figures = []
    for name in ('baby', 'bird'):
        hr = read_rgb(root / 'Set5' / 'HR' / f'{name}.png')
        image = read_rgb(folder / 'images' / 'Set5' / f'{name}.png')
        hr = hr[:, : image.shape[1], : image.shape[2]]
        figures.append(psnr(image, hr, crop_border=4, convert_to='Y'))
    assert printed == pytest.approx(sum(figures) / 2, abs=1e-4)
    validated = records(project[2])[-1]['Set5/PSNR']
    assert printed == pytest.approx(validated, abs=1e-4)


def test_the_exported_pipeline_upscales_to_the_same_image(tested, root):
    from mmesbnn.diffusion import SRDiffusionPipeline

    folder = tested[1]
    pipeline = SRDiffusionPipeline.from_pretrained(folder / 'pipeline')
    lr = read_rgb(root / 'Set5' / 'LR_bicubic' / 'X4' / 'bird.png')
    # the model's seed is 10, and this is image 1
    image = pipeline(lr, num_inference_steps=2, seed=11).images[0]
    expected = read_rgb(folder / 'images' / 'Set5' / 'bird.png')
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    assert torch.equal(pixels.view(*expected.shape[1:], 3).permute(2, 0, 1), expected)


def test_export_alone_needs_no_data(project, tmp_path):
    run(
        tmp_path,
        'test_sr.py',
        project[1],
        project[2] / 'iter_4.pth',
        '--no-test',
        '--export',
        'pipeline',
        '--cfg-options',
        'test_dataloader.dataset.data_root=nowhere',
    )
    assert (tmp_path / 'pipeline' / 'model_index.json').exists()


def test_one_process_of_a_distributed_test_exports(project, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.dist.is_main_process', lambda: False)
    run(tmp_path, 'test_sr.py', project[1], project[2] / 'iter_4.pth', '--export', 'pipeline')
    assert not (tmp_path / 'pipeline').exists()


@pytest.fixture
def failure(monkeypatch, capsys, tmp_path):
    """Run a tool that must fail, in this process; return its message."""

    def run(tool, *args):
        monkeypatch.chdir(tmp_path)
        assert run_tool(tool, *args, monkeypatch=monkeypatch) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    return run


def test_missing_data_are_named(root, tmp_path, failure):
    config = write_config(tmp_path, root)
    option = 'train_dataloader.dataset.data_root=nowhere'
    message = failure('train_sr.py', config, '--cfg-options', option)
    assert message.endswith('hr=nowhere/DIV2K/DIV2K_train_HR is not a folder')
    assert 'train_sr.py: cannot start the training: ' in message
    assert not list(tmp_path.rglob('*.pth'))


def test_wrong_checkpoints_are_named(root, tmp_path, failure):
    config = write_config(tmp_path, root)
    torch.save({'weight': torch.zeros(1)}, tmp_path / 'other.pth')
    message = failure('test_sr.py', config, 'other.pth')
    assert 'other.pth is not a checkpoint of this model' in message
    message = failure('test_sr.py', config, 'none.pth')
    assert 'cannot read the checkpoint none.pth' in message


def test_nothing_to_do(failure):
    message = failure('test_sr.py', 'config.py', 'none.pth', '--no-test')
    assert '--no-test without --export leaves nothing to do' in message


def test_a_pipeline_with_the_checkpoint_is_not_replaced(tmp_path, failure):
    checkpoint = tmp_path / 'pipeline' / 'unet' / 'x.safetensors'
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    message = failure('test_sr.py', 'x.py', checkpoint, '--no-test', '--export', 'pipeline')
    assert message.endswith('Would overwrite the file that is read: pipeline')
    assert checkpoint.exists()


@pytest.mark.parametrize(
    'option', [('--out', 'images'), ('--work-dir', 'work'), ('--launcher', 'pytorch')]
)
def test_options_of_a_test_without_a_test(failure, option):
    arguments = ('config.py', 'none.pth', '--no-test', '--export', 'pipeline')
    assert f'{option[0]} is for a test' in failure('test_sr.py', *arguments, *option)
