"""One class defines a task: the tests register a fourth task and use it everywhere."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip('openvino')

from mmesbnn.deploy import Runner
from mmesbnn.deploy.runtime import task as tasks
from mmesbnn.deploy.runtime.image_task import ImageTask
from mmesbnn.deploy.runtime.manifest_schema import check_counts, check_image
from mmesbnn.deploy.runtime.schema import Number, Part, Unfit, entry
from mmesbnn.deploy.runtime.task import Options, Task, find_task, register_task, task_names
from tests.deploy import exports
from tests.e2e.test_infer import run_tool


@dataclass(frozen=True, kw_only=True)
class BrightnessDecoding(Part):
    factor: float = entry(Number(0, 10))


class Brightness(ImageTask):
    """Mean brightness of an image."""

    NAME = 'brightness'
    Decoding = BrightnessDecoding

    @classmethod
    def check(cls, manifest):
        check_counts(manifest, 1, 1)
        check_image(manifest, 3)

    def decode(self, outputs, seen):
        return float(outputs['mean'][0]) * self.manifest.decoding.factor

    def describe(self, result, options):
        return f'brightness {result:.1f}', {'brightness': result}

    def draw(self, source, result, options):
        return Image.new('RGB', (5, 5), (round(result),) * 3)


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((1, 2, 3))[:, None]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, '_TASKS', dict(tasks._TASKS))
    register_task(Brightness)
    return write(tmp_path / 'export', factor=2.0)


def write(folder, **decoding):
    return exports.write_export(
        folder,
        Mean(),
        torch.zeros(2, 3, 8, 8),
        {'images': (-1, 3, 8, 8)},
        ['mean'],
        task='brightness',
        classes=None,
        preprocessing={'steps': [], 'mean': [0.0], 'std': [1.0], 'to_rgb': True},
        decoding=decoding,
    )


def grey(value):
    return np.full((8, 8, 3), value, np.uint8)


def test_a_fourth_task_runs(folder):
    runner = Runner(folder, threads=1)
    assert runner(grey(20)) == pytest.approx(40)
    assert list(runner.stream([grey(10), grey(30)], 2)) == pytest.approx([20, 60])
    assert runner.describe(40.0) == ('brightness 40.0', {'brightness': 40.0})
    assert runner.draw(grey(20), 40.0).getpixel((0, 0)) == (40, 40, 40)
    with pytest.raises(ValueError, match='upscale: the export is for brightness'):
        runner.upscale(grey(1))


def test_the_tool_runs_a_fourth_task(folder, tmp_path, monkeypatch, capsys):
    for value in (20, 50):
        Image.fromarray(grey(value)).save(tmp_path / f'{value}.png')
    files = [tmp_path / '20.png', tmp_path / '50.png']
    run_tool('infer.py', folder, *files, '--out', tmp_path / 'out', monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert 'brightness 40.0' in printed and 'brightness 100.0' in printed
    assert Image.open(tmp_path / 'out' / '50.png').getpixel((0, 0)) == (100, 100, 100)


def test_its_manifest_is_checked(folder):
    with pytest.raises(Unfit, match=r'decoding\.factor=99'):
        write(folder, factor=99)


def test_a_task_that_is_not_registered(tmp_path):
    assert 'brightness' not in task_names()
    with pytest.raises(Unfit, match="task='brightness'"):
        write(tmp_path, factor=2)


def test_names_are_unique():
    class Other(Brightness):
        NAME = 'classification'

    find_task('classification')
    with pytest.raises(ValueError, match='classification'):
        register_task(Other)


@pytest.mark.parametrize('name', task_names())
def test_tasks_are_found_by_their_names(name):
    found = find_task(name)
    assert issubclass(found, Task) and name == found.NAME
    assert Options().score_thr == 0.3
