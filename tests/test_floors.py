"""Imports inside the package point down, as CONTRIBUTING's picture shows."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / 'tools' / 'dev' / 'draw_imports.py'


@pytest.fixture(scope='module')
def script():
    return runpy.run_path(str(SCRIPT))


def test_every_room_has_a_floor(script):
    assert script['rooms']() <= set(script['floor_of']())


def test_imports_point_down_only(script):
    assert script['upward'](script['imports']()) == {}


def test_an_import_upward_is_found(script, tmp_path):
    package = tmp_path / 'mmesbnn'
    for name, text in {
        'binary/signs.py': 'def f():\n    from ..deploy import Runner\n',
        'binary/__init__.py': '',
        'deploy/__init__.py': 'from ..binary.signs import f\nimport torch\n',
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    edges = script['imports'](package)
    assert set(edges) == {('binary', 'deploy'), ('deploy', 'binary')}
    assert script['upward'](edges) == {('binary', 'deploy'): ['binary/signs.py']}


def test_contributing_names_every_room_of_the_picture(script):
    text = (SCRIPT.parents[2] / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    lines = [line for line in text.splitlines() if line.startswith('| ')]
    floors = script['FLOORS'][: -script['GROUND']]
    found = [line for line in lines if all(f'`{room}`' in line for room in floors[0])]
    assert len(found) == 1
    first = lines.index(found[0])
    for line, floor in zip(lines[first:], floors):
        assert all(f'`{room}`' in line for room in floor), floor
