"""The page of signs and weight binarizers names and shows every entry."""

import re
import runpy
from pathlib import Path

import pytest

from mmesbnn.binary.entries import SIGNS, WEIGHT_BINARIZERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs' / 'binarizers.md').read_text(encoding='utf-8')


def test_the_page_names_every_entry():
    rows = [line.split('|')[1] for line in PAGE.splitlines() if line.startswith('| ')]
    named = {name for row in rows for name in re.findall(r'`(\w+)`', row)}
    assert set(SIGNS.own) | set(WEIGHT_BINARIZERS.own) <= named


def test_the_picture_shows_every_entry(tmp_path):
    pytest.importorskip('matplotlib')
    script = runpy.run_path(str(ROOT / 'tools' / 'docs' / 'draw_binarizers.py'))
    drawn = {name for name, _, _ in script['panels']()}
    assert drawn | {'approx', 'fixed'} == set(SIGNS.own) | set(WEIGHT_BINARIZERS.own)
    script['draw'](tmp_path / 'binarizers.png')
    assert (tmp_path / 'binarizers.png').read_bytes().startswith(b'\x89PNG')
