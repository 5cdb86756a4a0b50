"""Pages name the extras of pip that their commands need."""

import re
from importlib.metadata import PackageNotFoundError, metadata

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

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


def pinned():
    """List the pinned requirements whose pinned release is installed, with their metadata."""
    text = re.sub(r'#.*', '', (ROOT / 'constraints.txt').read_text())
    for requirement in map(Requirement, filter(str.strip, text.splitlines())):
        try:
            found = metadata(requirement.name)
        except PackageNotFoundError:
            continue
        if requirement.specifier.contains(found['Version']):
            yield requirement.name, found


def test_the_page_names_the_python_that_the_pins_need():
    page = (ROOT / 'docs' / 'get_started.md').read_text()
    (minor,) = re.findall(r'They need Python 3\.(\d+) or newer', page)
    allowed = {name: SpecifierSet(found.get('Requires-Python') or '') for name, found in pinned()}
    assert [name for name, each in allowed.items() if f'3.{minor}.9' not in each] == []
    older = f'3.{int(minor) - 1}.9'
    assert not allowed or any(older not in each for each in allowed.values())
