"""Curves of a training from mmengine's log files."""

import json
import sys
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits

from mmesbnn.plots.curves import draw_training, read_scalars, series


def write_run(work_dir, name, records):
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    lines = [json.dumps(record) + '\n' for record in records]
    (folder / 'scalars.json').write_text(''.join(lines))


def training(epochs, first=0):
    """Return records of epochs with two iterations each."""
    records = []
    for epoch in range(first, first + epochs):
        for step in (2 * epoch + 1, 2 * epoch + 2):
            scalars = dict(loss=2.0 / step, temperature=0.5**epoch, flip_rate=0.1)
            records.append(dict(step=step, epoch=epoch + 1, **scalars))
        records.append({'accuracy/top1': 10.0 * epoch, 'step': epoch + 1})
    return records


def samples(count):
    digits = load_digits()
    return [(digits.images[i], str(digits.target[i]), str(i % 3)) for i in range(count)]


def test_runs_are_read_oldest_first(tmp_path):
    write_run(tmp_path, '20250102_000000', training(1, first=1))
    write_run(tmp_path, '20250101_235959', training(1))
    assert read_scalars(tmp_path) == training(2)
    assert read_scalars(str(tmp_path)) == training(2)


def test_empty_lines_and_empty_runs_are_skipped(tmp_path):
    write_run(tmp_path, '1', [])
    write_run(tmp_path, '2', training(1))
    with (tmp_path / '2' / 'vis_data' / 'scalars.json').open('a') as file:
        file.write('\n')
    assert read_scalars(tmp_path) == training(1)


@pytest.mark.parametrize('line', [b'{"loss": 0.', b'\0' * 9, b'\xff', b'[1]', b'[' * 100_000])
def test_damaged_lines_are_named(tmp_path, line):
    write_run(tmp_path, '1', training(1))
    with (tmp_path / '1' / 'vis_data' / 'scalars.json').open('ab') as file:
        file.write(line + b'\n')
    with pytest.raises(ValueError, match=r'^line 4 of .*scalars.json is damaged: it must be'):
        read_scalars(tmp_path)


def test_the_torn_line_of_a_killed_training_is_skipped(tmp_path):
    write_run(tmp_path, '1', training(1))
    write_run(tmp_path, '2', training(1, first=1))
    with (tmp_path / '1' / 'vis_data' / 'scalars.json').open('a') as file:
        file.write('{"loss": 0.')
    assert read_scalars(tmp_path) == training(2)


@pytest.mark.parametrize('name', ['.', 'nowhere', 'empty'])
def test_nothing_logged(tmp_path, name):
    write_run(tmp_path / 'empty', 'run', [])
    with pytest.raises(FileNotFoundError, match='holds no logged scalars') as error:
        read_scalars(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_series_takes_the_records_that_have_the_key():
    assert series(training(2), 'accuracy/top1') == ([1, 2], [0.0, 10.0])
    assert series(training(2), 'loss') == ([1, 2, 3, 4], [2.0, 1.0, 2 / 3, 0.5])
    assert series(training(2), 'unknown') == ([], [])


def test_series_has_the_steps_that_a_later_run_repeats_once():
    killed, resumed = training(3), training(2, first=2)
    assert series(killed + resumed, 'loss') == series(training(4), 'loss')
    resumed[-1]['accuracy/top1'] = 99.0
    assert series(killed + resumed, 'accuracy/top1') == ([1, 2, 3, 4], [0.0, 10.0, 20.0, 99.0])
    # a training that began anew in the folder
    assert series(training(3) + training(2), 'loss') == series(training(2), 'loss')


@pytest.mark.parametrize('count', [0, 1, 2, 5, 20])
def test_picture_is_a_whole_png(tmp_path, count):
    path = tmp_path / 'training.png'
    path.write_text('old')
    draw_training(training(3), path, 'title', samples(count))
    assert [file.name for file in tmp_path.iterdir()] == ['training.png']
    picture = Image.open(path)
    assert (picture.format, picture.size) == ('PNG', (1200, 800))
    picture.load()
    lower = np.asarray(picture.convert('L'))[500:]
    assert (lower.min() < 255) == (count > 0)


def test_path_may_be_a_string(tmp_path):
    draw_training(training(1), str(tmp_path / 'a.png'), 'title')
    assert (tmp_path / 'a.png').stat().st_size > 0


def test_a_training_without_validation_or_binary_layers(tmp_path):
    records = [dict(step=step, loss=1.0) for step in range(3)]
    draw_training(records, tmp_path / 'a.png', 'title')
    assert Image.open(tmp_path / 'a.png').size == (1200, 800)


def test_missing_matplotlib_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    message = r"matplotlib.*pip install 'mmesbnn\[demo\]'"
    with pytest.raises(ImportError, match=message):
        draw_training(training(1), tmp_path / 'a.png', 'title')
    assert not list(tmp_path.iterdir())


def test_titles_are_whole_and_do_not_touch(tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, 'savefig', lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw))
    )
    draw_training(training(3), tmp_path / 'x.png', 'title', samples(20))
    (figure,) = figures
    figure.draw_without_rendering()
    for part in figure.subfigs:
        for line in {axis.get_subplotspec().rowspan.start for axis in part.axes}:
            boxes = [
                axis.title.get_window_extent()
                for axis in part.axes
                if axis.get_subplotspec().rowspan.start == line
            ]
            assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
            assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
