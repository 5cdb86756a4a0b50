"""The API reference has every public name, and its docstrings become Markdown."""

import ast
from pathlib import Path

import pytest

import mmesbnn.binary
import mmesbnn.deploy
from mmesbnn.engine import hooks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module', autouse=True)
def own_folder():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / 'tools' / 'docs'))
        yield


def test_every_public_name_has_an_entry():
    from site_api import api_pages

    pages = api_pages(ROOT)
    listed = {line.split('.')[-1] for text in pages.values() for line in text.splitlines()}
    for module in (mmesbnn.binary, mmesbnn.deploy, hooks):
        assert set(module.__all__) <= listed
    assert '::: mmesbnn.deploy.runtime.runner.Runner\n' in pages['deployment']
    assert '::: mmesbnn.binary.ESConv2d\n' in pages['layers']


def test_submodules_have_no_entry():
    from site_api import public_names

    tree = ast.parse(
        'from . import below\nfrom .x import A, B\n'
        "_LAZY = {'C': 'y.z'}\ndef f(): ...\n__all__ = ['A', 'below', 'f']"
    )
    assert public_names(tree) == ['A', 'f', 'y.z.C']


def test_docstrings_become_markdown():
    pytest.importorskip('griffe', reason='the extra `docs` is not installed')
    from griffe_roles import as_markdown

    text = 'As :class:`~a.b.C` and :func:`f`::\n\n    x::2\n\nA colon: here.'
    assert as_markdown(text) == 'As `C` and `f`:\n\n    x::2\n\nA colon: here.'
