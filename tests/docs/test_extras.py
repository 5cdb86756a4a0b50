"""Pages name the extras of pip that their commands need."""

import re

import pytest

from tests.docs.blocks import ROOT

#: Tools and functions that write data of scikit-learn and scikit-image.
WRITERS = re.compile(r'make_digits|make_mini_voc|write_digits|write_photographs')
INSTALLED = re.compile(r"pip install '\.\[([a-z,]+)\]'")
TUTORIALS = sorted(path.name for path in (ROOT / 'docs' / 'tutorials').glob('*.md'))


@pytest.mark.parametrize('page', TUTORIALS)
def test_pages_that_write_data_install_what_it_needs(page):
    text = (ROOT / 'docs' / 'tutorials' / page).read_text()
    if WRITERS.search(text):
        assert 'demo' in INSTALLED.search(text)[1].split(',')


def test_all_extras_for_users_are_listed():
    setup = (ROOT / 'setup.py').read_text().partition('EXTRAS = {')[2].partition('}')[0]
    extras = set(re.findall(r"^    '(\w+)':", setup, re.MULTILINE)) - {'test', 'docs'}
    page = (ROOT / 'docs' / 'get_started.md').read_text()
    assert extras == set(re.findall(r'^\| `(\w+)` \|', page, re.MULTILINE))
