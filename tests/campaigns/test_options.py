"""Command lines refuse wrong options by name, before any work, with status 2."""

import argparse
import contextlib
import io
import math
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(
    path for path in (ROOT / 'tools').rglob('*.py') if 'def parse_args' in path.read_text()
)
WRONG = [
    '',
    ' ',
    '-1',
    '0',
    '-0',
    '00',
    '1',
    '2.5',
    '1e3',
    'nan',
    'inf',
    '-inf',
    '1e400',
    '-1e-9',
    '0x10',
    '1_0',
    '\u0661',
    'one',
    'None',
    'True',
    '[1]',
    '1,2',
    '9' * 30,
    '-' + '9' * 30,
    '9' * 5000,
    'x' * 100_000,
    '\n',
    '--',
    '\ud800',
    "'",
    '1.5.2',
]


class Caught(Exception):
    """Carry the parser of a tool."""


@pytest.fixture(scope='module')
def parsers():
    """Return the parser of every tool by the tool's name."""

    def catch(parser, *args, **kwargs):
        raise Caught(parser)

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for folder in ('tools', 'tools/benchmarks'):
            patch.syspath_prepend(str(ROOT / folder))
        for path in TOOLS:
            main = runpy.run_path(str(path), run_name='tool')['parse_args']
            with patch.context() as inner:
                inner.setattr(argparse.ArgumentParser, 'parse_args', catch)
                inner.setattr(sys, 'argv', [path.name])
                with pytest.raises(Caught) as caught:
                    main()
            found[path.name] = caught.value.args[0]
    return found


def given(parser):
    """Return the required words and the place of every argument among them."""
    words = {}
    for action in parser._actions:
        if not action.option_strings or action.required:
            count = action.nargs if isinstance(action.nargs, int) else 1
            words[action.dest] = [*action.option_strings[-1:], *['1'] * count]
    return words


def numbers(value):
    values = value if isinstance(value, (list, tuple)) else [value]
    return [x for x in values if isinstance(x, (int, float))]


def attack(parser, action, word):
    words = given(parser)
    count = action.nargs if isinstance(action.nargs, int) else 1
    words[action.dest] = [*action.option_strings[-1:], *[word] * count]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = parser.parse_args([w for part in words.values() for w in part])
    except SystemExit as end:
        assert end.code == 2
        *_, last = said.getvalue().strip().rpartition('error: ')
        named = action.option_strings[-1:] or [action.metavar, action.dest]
        # argparse reads a word with a dash as an option, not as an argument
        dashed = word.startswith('-') and (not action.option_strings or action.nargs == '*')
        assert dashed or any(name in last for name in named if isinstance(name, str)), last[:300]
        # argparse itself prints a wrong choice without shortening
        assert action.choices or len(last) < 700, f'{len(last)} characters'
        return
    value = getattr(args, action.dest)
    for x in numbers(value):
        assert math.isfinite(x) and x >= 0, f'{x!r} is accepted'
        assert isinstance(x, float) or x <= 2**40, f'{x!r} is accepted'
    texts = value if isinstance(value, list) else [value]
    texts = [str(x) if x != Path() else '' for x in texts]
    assert '' not in texts, 'an empty text is accepted'


def attacked(parser):
    return [
        action
        for action in parser._actions
        if action.nargs != 0 and action.dest not in ('help', 'cfg_options', 'backbone')
    ]


def test_wrong_options_are_named(campaign, parsers):
    for rng in campaign.draws(least=600):
        tool = rng.choice(list(parsers))
        action = rng.choice(attacked(parsers[tool]))
        word = rng.choice(WRONG)
        with campaign.attempt(f'{tool} {action.dest}'):
            try:
                attack(parsers[tool], action, word)
            except Exception as error:
                raise AssertionError(f'{word[:40]!r}: {error!r}') from error
