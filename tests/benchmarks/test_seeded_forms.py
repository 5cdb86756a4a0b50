"""Trainings of several forms are stored once each and compared pair by pair."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip('scipy')
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'tools' / 'benchmarks'))
from json_lines import read
from seeded_forms import BASELINE, draw, pairs, parser_of, table, train_missing


def line(form, seed, loss):
    return dict(form=form, seed=seed, loss=loss)


LINES = [
    line(BASELINE, 1, 2.0),
    line('other', 0, 1.5),
    line('other', 1, 1.0),
    line(BASELINE, 0, 2.5),
    line('other', 2, 9.0),  # without a partner
]


def test_no_training_is_done_twice(tmp_path):
    done = []

    def train(form, seed, iters):
        done.append((form, seed, iters))
        return {'loss': 0.5}

    path = tmp_path / 'results.jsonl'
    for seeds in (range(1), range(2)):
        train_missing(path, train, [BASELINE, 'other'], seeds, iters=3)
    assert done == [(form, seed, 3) for seed in range(2) for form in (BASELINE, 'other')]
    assert read(path)[0] == dict(form=BASELINE, seed=0, iters=3, loss=0.5)
    train_missing(path, train, ['other'], [0], iters=4)
    assert done[-1] == ('other', 0, 4)
    assert [json.loads(x) for x in path.read_text().splitlines()] == read(path)


def test_the_picture_does_not_replace_the_results(capsys):
    parser = parser_of('', [BASELINE], Path('results.jsonl'), seeds=1)
    assert parser.parse_args(['--out', 'other.jsonl']).out == Path('other.jsonl')
    with pytest.raises(SystemExit):
        parser.parse_args(['--out', 'results.png'])
    assert 'must not end with .png' in capsys.readouterr().err


def test_a_missing_file_holds_nothing(tmp_path):
    assert read(tmp_path / 'results.jsonl') == []


@pytest.mark.parametrize(
    ('damaged', 'words'),
    [
        (b'{"form": "ba', 'is damaged: it must be JSON'),
        (b'\xff', 'is damaged: it must be JSON'),
        (b'[' * 100_000, 'is damaged: it must be JSON'),
        (b'[]', 'is damaged: it must be a dict'),
        (b'{"form": "other"}', "has no 'seed': is the file that of another command"),
    ],
)
def test_damaged_lines_are_named_before_the_training(tmp_path, damaged, words):
    path = tmp_path / 'results.jsonl'
    path.write_bytes(json.dumps(LINES[0]).encode() + b'\n' + damaged + b'\n')
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f'^line 2 of .*results.jsonl {words}'):
        train_missing(path, pytest.fail, [BASELINE], [0])
    assert path.read_bytes() == before


@pytest.mark.parametrize('name', ['results.jsonl', 'results.png'])
def test_results_that_cannot_be_written_are_refused_before_the_training(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=name):
        train_missing(tmp_path / 'results.jsonl', pytest.fail, [BASELINE], [0])


def test_pairs_share_their_seed():
    assert pairs(LINES, 'other', 'loss') == ([1.5, 1.0], [2.5, 2.0])
    assert pairs(LINES, 'absent', 'loss') == ([], [])


def test_the_table_gives_means_and_differences_of_pairs():
    rows = table(LINES, [BASELINE, 'other', 'absent'], ['loss']).splitlines()
    assert rows[2:] == [
        '| baseline | 2 | 2.250 |  |',
        '| other | 2 | 1.250 | -1.000 [-1.000, -1.000] * |',
    ]


def test_the_picture_shows_every_form(tmp_path):
    path = tmp_path / 'picture.png'
    draw(LINES, [BASELINE, 'other'], {'loss': 'loss'}, path)
    assert path.read_bytes().startswith(b'\x89PNG')
