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
