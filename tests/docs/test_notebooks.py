"""The notebooks run from top to bottom, and show results that their code gives."""

import contextlib
import io
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / 'docs' / 'notebooks').glob('*.ipynb'))


def code_cells(name):
    cells = json.loads((ROOT / 'docs' / 'notebooks' / name).read_text())['cells']
    return [cell for cell in cells if cell['cell_type'] == 'code']


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_cells_run(name, tmp_path, monkeypatch):
    """Run all cells; what they print has as many lines as the stored outputs."""
    monkeypatch.chdir(tmp_path)
    names = {'__name__': name}
    for number, cell in enumerate(code_cells(name)):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(''.join(cell['source']), f'{name}, cell {number}', 'exec'), names)
        stored = ''.join(
            ''.join(output['text'])
            for output in cell['outputs']
            if output['output_type'] == 'stream' and output['name'] == 'stdout'
        )
        assert printed.getvalue().count('\n') == stored.count('\n'), f'{name}, cell {number}'


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_outputs_are_stored_without_errors(name):
    outputs = [output for cell in code_cells(name) for output in cell['outputs']]
    assert {'stream', 'display_data'} <= {output['output_type'] for output in outputs}
    assert not any(output['output_type'] == 'error' for output in outputs)
    text = json.dumps(outputs)
    assert 'Warning' not in text and str(ROOT) not in text
