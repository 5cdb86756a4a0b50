"""Configs share through `_base_`."""

from collections import defaultdict
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
LINES = 10


def runs(text):
    """Return all runs of ten lines, without blank lines, comments and indentation."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith('#')]
    return {tuple(lines[i : i + LINES]) for i in range(len(lines) - LINES + 1)}


def repeated(texts):
    """Map each run that occurs in several of the texts to their names."""
    places = defaultdict(list)
    for name, text in texts.items():
        for run in runs(text):
            places[run].append(name)
    return {run: names for run, names in places.items() if len(names) > 1}


def test_no_config_repeats_ten_lines_of_another():
    texts = {str(path): path.read_text() for path in CONFIGS.rglob('*.py')}
    assert len(texts) > 60
    assert repeated(texts) == {}


def test_a_repetition_is_found():
    block = '\n'.join(f'a{i} = {i}' for i in range(LINES))
    assert repeated({'x': block, 'y': f'# other\n\n  {block}\nb = 1'})
    assert not repeated({'x': block, 'y': block.replace('a5', 'c5')})
