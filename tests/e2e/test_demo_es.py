"""Text and picture of the ES demo, from trainings that are there."""

import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'demo_es.py'


def training(form, seed, score):
    return dict(
        form=form,
        seed=seed,
        iters=100,
        ops=682240.0,
        curve=[4.0, 3.0, 2.5 - score / 100],
        fit=dict(score=score),
        test=dict(score=score / 4),
    )


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The tool's functions, and the trainings of a file."""
    monkeypatch.syspath_prepend(TOOL.parent)
    functions = runpy.run_path(str(TOOL))
    scores = {('1x1', 1): 40, ('2x1+balanced', 1): 44.5, ('1x1', 2): 42, ('2x1+balanced', 2): 41}
    file = tmp_path / 'results.jsonl'
    lines = [json.dumps(training(*key, score)) for key, score in scores.items()]
    file.write_text('\n'.join(lines) + '\n')
    return functions, functions['read'](file)


def test_gains_are_those_of_the_same_seed(demo):
    functions, runs = demo
    lines = functions['report'](runs).splitlines()
    assert len(lines) == 4 and all('0.6822 M OPs' in line for line in lines)
    assert 'seed 1' in lines[2] and '44.50 % right (+4.50 points)' in lines[2]
    assert '(-1.00 points)' in lines[3] and 'held-out crops 10.25 %' in lines[3]


def test_there_is_a_picture(demo, tmp_path):
    functions, runs = demo
    functions['draw'](runs, tmp_path / 'demo.png')
    with Image.open(tmp_path / 'demo.png') as image:
        assert image.format == 'PNG' and image.size[0] >= 800
        assert len(image.convert('RGB').getcolors(1 << 20)) > 10


@pytest.mark.parametrize('name', ['demo', 'demo_det', 'demo_es', 'demo_sr'])
@pytest.mark.parametrize('given', [(), ('--work-dir', 'mine')])
def test_a_given_folder_is_relative_to_the_users(name, given, tmp_path, monkeypatch):
    """The default is in the checkout, in which the demo works."""

    def stop(path, *args, **kwargs):
        raise InterruptedError(str(Path.cwd() / path))

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(TOOL.parent)
    demo = importlib.import_module(name)
    monkeypatch.setattr(Path, 'mkdir', stop)
    monkeypatch.setattr(sys, 'argv', [name, *given])
    expected = tmp_path / 'mine' if given else TOOL.parents[1] / 'work_dirs' / name
    with pytest.raises(InterruptedError, match=f'^{re.escape(str(expected))}$'):
        demo.main()
