"""Docstrings, comments and pages are in plain English."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ('mmesbnn', 'tools', 'configs', 'tests')
    for path in (ROOT / folder).rglob('*.py')
)
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ('*.md', 'docs/**/*.md', 'configs/**/*.md')
    for path in ROOT.glob(pattern)
)

#: A docstring names a thing or begins with a verb. A question does neither.
BEGINNINGS = re.compile(r'(What|Whether|Which|How)\b')
#: Words that a reader with English as a second language may not know, or reads twice.
WORDS = re.compile(r'\b(told|lest|apart|as it were)\b', re.IGNORECASE)


def docstrings(source):
    """List the line and the text of all docstrings of a module."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    found = [(node.body[0].lineno, ast.get_docstring(node)) for node in nodes if node.body]
    return [(line, text) for line, text in found if text]


def comments(source):
    """List the line and the text of all comments of a module."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [(t.start[0], t.string) for t in tokens if t.type == tokenize.COMMENT]


def questions(source):
    """List the docstrings that begin as a question."""
    return [(line, text) for line, text in docstrings(source) if BEGINNINGS.match(text)]


def rare_words(source):
    """List the docstrings and comments that hold one of ``WORDS``."""
    return [
        (line, text) for line, text in docstrings(source) + comments(source) if WORDS.search(text)
    ]


def test_faults_are_found():
    source = '"""Apart."""\nx = 1  # as it were\ndef f():\n    """Whether it is."""\n'
    assert questions(source) == [(4, 'Whether it is.')]
    assert rare_words(source) == [(1, 'Apart.'), (2, '# as it were')]
    assert not questions('"""Whatever."""') and not rare_words('# a partial result, foretold')


@pytest.mark.parametrize('path', SOURCES)
def test_sources(path):
    source = (ROOT / path).read_text()
    assert questions(source) == []
    assert rare_words(source) == []


@pytest.mark.parametrize('path', PAGES)
def test_pages(path):
    lines = (ROOT / path).read_text().splitlines()
    assert [line for line in lines if WORDS.search(line)] == []
