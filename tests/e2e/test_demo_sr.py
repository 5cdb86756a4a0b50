"""The texts and pictures of the super-resolution demo, from existing images."""

import runpy
from pathlib import Path

import pytest

from mmesbnn.datasets import write_photographs
from mmesbnn.evaluation import psnr, ssim
from mmesbnn.images.bicubic import resize
from mmesbnn.images.tensors import image_files, read_rgb, to_uint8, write_png

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'demo_sr.py'


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Return the tool's functions; write photographs and fake results to this folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(TOOL.parent)
    functions = runpy.run_path(str(TOOL))
    write_photographs(functions['DATA'], test_size=64)
    for file in image_files(functions['DATA'] / 'test' / 'HR'):
        hr = read_rgb(file)
        smooth = to_uint8(resize(resize(hr / 255, (48, 48)), (64, 64)))
        for tau, image in ((1, smooth), (2, (hr // 2 + smooth // 2))):
            write_png(tmp_path / f'run/tau{tau}/images/test' / file.name, image)
    return functions


def test_figures_are_means_over_the_photographs(demo, tmp_path):
    figures, rows = demo['compare'](tmp_path / 'run')
    assert list(figures) == ['bicubic', 'tau = 1', 'tau = 2']
    files = image_files(demo['DATA'] / 'test' / 'HR')
    assert len(files) == len(rows) == 3
    for measure, place in ((psnr, 0), (ssim, 1)):
        values = [
            measure(
                read_rgb(tmp_path / 'run/tau1/images/test' / file.name),
                read_rgb(file),
                crop_border=2,
                convert_to='Y',
            )
            for file in files
        ]
        assert figures['tau = 1'][place] == pytest.approx(sum(values) / 3)
        got = [figures[name][place] for name in figures]
        assert got == sorted(got)  # in the order of the images' quality


def test_rows_show_the_same_part_of_every_version(demo, tmp_path):
    _, rows = demo['compare'](tmp_path / 'run')
    for row in rows:
        sizes = [image.shape for _, image in row]
        assert sizes == [(16, 16, 3), *[(32, 32, 3)] * 4]
        assert row[0][0] == 'input' and row[-1][0].endswith('original')


def test_no_training_outlives_a_demo_that_cannot_print(demo, tmp_path, monkeypatch):
    started, stopped = [], []

    def start(*command, log):
        started.append(command)
        monkeypatch.setattr('builtins.print', fail)
        return 'process'

    def fail(*args, **kwargs):
        raise BrokenPipeError

    values = demo['train'].__globals__
    monkeypatch.setitem(values, 'start', start)
    monkeypatch.setattr(values['demo'], 'stop', stopped.append)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    with pytest.raises(BrokenPipeError):
        demo['train'](tmp_path / 'run', 1)
    assert len(started) == 1 and stopped == ['process']
