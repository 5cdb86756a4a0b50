"""Figures of capacity and of copies."""

import dataclasses

import pytest
from matplotlib.figure import Figure
from PIL import Image

from mmesbnn.analysis import LayerCapacity
from mmesbnn.plots.capacity import CORRELATION, RANK, draw_capacity, draw_copies


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, 'savefig', lambda self, *args, **kw: (saved.append(self), save(self, *args, **kw))
    )
    return saved


def lines(axis):
    """Numbers of the solid lines by label, and of the dotted ones by colour."""
    return {
        line.get_color() if line.get_linestyle() == ':' else line.get_label(): [
            float(y) for y in line.get_ydata()
        ]
        for line in axis.lines
    }


ES = [
    LayerCapacity('a', 64, 4, 289, 70.5, 20.0, 0.8),
    LayerCapacity('b', 64, 4, 33, 12.5, 30.0, 0.5),
]
PLAIN = [
    dataclasses.replace(x, channels=32, copies=1, possible=145, copy_correlation=None) for x in ES
]


def test_lines_are_the_numbers_of_the_layers(tmp_path, figures):
    draw_capacity({'plain': PLAIN, 'es': ES}, tmp_path / 'c.png', 'title')
    values, ranks, copies = figures[0].axes
    assert lines(values) == {
        'C0': [145, 145],
        'plain': [70.5, 12.5],
        'C1': [289, 33],
        'es': [70.5, 12.5],
    }
    assert lines(ranks)['C1'] == [64, 64] and lines(ranks)['es'] == [20, 30]
    assert lines(copies) == {'es': [0.8, 0.5]}
    assert Image.open(tmp_path / 'c.png').size == (1500, 450)


def test_soft_weights_leave_their_line_out(tmp_path, figures):
    draw_capacity({'es': [dataclasses.replace(x, values=None) for x in ES]}, tmp_path / 'c.png')
    assert list(lines(figures[0].axes[0])) == ['C0']


def test_copies_have_a_line_per_measurement(tmp_path, figures):
    records = [
        {'step': 1, 'loss': 3.0},
        {'step': 0, RANK + 'a': 0.5, RANK + 'b': 0.4, CORRELATION + 'b': 0.9},
        {'step': 9, RANK + 'a': 0.6, RANK + 'b': 0.7, CORRELATION + 'b': 0.3},
    ]
    draw_copies(records, tmp_path / 'c.png')
    left, right = figures[0].axes
    assert lines(left) == {'0': [0.9], '9': [0.3]}
    assert lines(right) == {'0': [0.5, 0.4], '9': [0.6, 0.7]}
    # layer b is the second one in both panels
    assert left.lines[0].get_xdata().tolist() == [1]


def test_measurements_that_a_resumed_training_repeats_have_one_line(tmp_path, figures):
    steps = [(0, 0.1), (5, 0.2), (9, 0.3), (5, 0.4), (9, 0.5)]
    draw_copies([{'step': step, RANK + 'a': rank} for step, rank in steps], tmp_path / 'c.png')
    assert [(x.get_label(), list(x.get_ydata())) for x in figures[0].axes[1].lines] == [
        ('0', [0.1]),
        ('5', [0.4]),
        ('9', [0.5]),
    ]


def test_nothing_to_draw(tmp_path):
    for networks in ({}, {'es': []}):
        with pytest.raises(ValueError, match='networks: there must be'):
            draw_capacity(networks, tmp_path / 'c.png')
    with pytest.raises(ValueError, match='none is of CopyDiversityHook'):
        draw_copies([{'step': 1, 'loss': 3.0}], tmp_path / 'c.png')
    assert not list(tmp_path.iterdir())
