"""Tables of Markdown pages have the same cells on GitHub and on the site."""

import re

import pytest

from tests.docs.blocks import FENCE, ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ('*.md', 'docs/**/*.md', 'configs/**/*.md')
    for path in ROOT.glob(pattern)
)
CODE = re.compile(r'(`+)(.+?)\1')


def bars_in_code(text):
    """List the code of table rows that holds a bar.

    GitHub ends the cell at such a bar, and the site shows the backslash before it.
    """
    rows = [line for line in FENCE.sub('', text).splitlines() if line.lstrip().startswith('|')]
    return [code[2] for row in rows for code in CODE.finditer(row) if '|' in code[2]]


@pytest.mark.parametrize('page', PAGES)
def test_code_in_tables_has_no_bar(page):
    assert bars_in_code((ROOT / page).read_text()) == []


def test_bars_in_code_are_found():
    assert bars_in_code('| `a` | `mean|w|` |\n| `b` | `\\|x\\|` |') == ['mean|w|', r'\|x\|']
    assert bars_in_code('| `a` | `b` |\n`a | b`\n\n```shell\n| `c | d` |\n```\n') == []
