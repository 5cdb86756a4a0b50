"""Code blocks of the README and of all pages run, or are at least valid."""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS

from mmesbnn.registry import SIGNS, WEIGHT_BINARIZERS
from tests.docs import blocks
from tests.docs.blocks import PAGES, ROOT
from tests.managers import forget_components

TARGETS = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
#: Programs whose arguments are not checked.
OTHERS = ('cd', 'cp', 'export', 'git', 'jupyter', 'mkdir')


class Parsed(Exception):
    """A tool has parsed its arguments."""


@pytest.fixture
def parse(monkeypatch):
    """Return a function that parses a tool's arguments and does not run the tool."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'benchmarks'))
    original = argparse.ArgumentParser.parse_args

    def stop(parser, *args, **kwargs):
        original(parser, *args, **kwargs)
        raise Parsed

    def parse(tool, arguments):
        monkeypatch.setattr(sys, 'argv', [str(tool), *arguments])
        spec = importlib.util.spec_from_file_location(f'tool_{tool.stem}', tool)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        if hasattr(module, 'parse_args'):
            return module.parse_args()  # with its own checks
        monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', stop)
        with pytest.raises(Parsed):
            module.main()

    return parse


def check_file(word):
    """Fail if a word names a file of the repository that is not there."""
    if word.startswith(('configs/', 'tools/', 'tests/')):
        assert (ROOT / word.partition('::')[0]).exists(), f'there is no {word}'


def check_command(words, parse):
    """Fail if a command cannot be valid."""
    while re.match(r'\w+=', words[0]):  # variables
        words = words[1:]
    program, *rest = words
    for word in rest:
        check_file(word)
    if program == 'torchrun':  # --nproc_per_node N
        program, rest = 'python', rest[2:]
    if program == 'python' and rest[0] == '-c':
        compile(rest[1], '-c', 'exec')
    elif program == 'python' and rest[0] == '-m':
        assert importlib.util.find_spec(rest[1]) or rest[1] == 'venv', rest[1]
    elif program == 'python':
        if rest[0].startswith('tools/'):
            parse(ROOT / rest[0], rest[1:])
    elif program == 'make':
        assert {word for word in rest if '=' not in word and word[0] != '-'} <= set(TARGETS)
    elif program == 'mim':
        assert rest[0] in ('train', 'test', 'install', 'download', 'run', 'gridsearch')
    elif program in ('pip', '.venv/bin/pip'):
        assert rest[0] in ('install', 'wheel', 'uninstall')
    else:
        assert program in (*OTHERS, 'pytest'), f'{program} is not known'


@pytest.mark.parametrize('page', PAGES)
def test_commands_are_valid(page, parse, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = blocks.indented_commands(page)
    for block in blocks.blocks(page):
        if block.language == 'shell':
            found += blocks.commands(block.text)
        elif block.language == 'console':
            for command, _ in blocks.dialogue(block.text):
                found += blocks.commands(command)
    for words in found:
        check_command(words, parse)


def runnable():
    """List the pages with code that runs, marked as slow if they start commands."""
    pages = []
    for page in PAGES:
        kinds = {block.language for block in blocks.blocks(page) if not block.needs}
        if 'console' in kinds:
            pages.append(pytest.param(page, marks=pytest.mark.slow))
        elif 'python' in kinds:
            pages.append(page)
    return pages


@pytest.fixture
def registries():
    """Forget the classes that a page registers."""
    yield
    forget_components((SIGNS, WEIGHT_BINARIZERS, MODELS, HOOKS), ['page'])


@pytest.mark.usefixtures('registries')
@pytest.mark.parametrize('page', runnable())
def test_code_runs(page, tmp_path, monkeypatch):
    """Run the code of a page from top to bottom, in a folder with configs and tools."""
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    names = {'__name__': 'page'}
    for block in blocks.blocks(page):
        if block.needs:
            continue
        if block.file:
            Path(block.file).write_text(block.text)
            Config.fromfile(block.file)
        elif block.language == 'python':  # errors name the line of the page
            exec(compile('\n' * (block.line - 1) + block.text, ROOT / page, 'exec'), names)
        elif block.language == 'console':
            for command, expected in blocks.dialogue(block.text):
                run(command, expected, f'{page}:{block.line}')


def run(command, expected, place):
    """Run a command as a user does who is in the repository's folder."""
    env = {
        **os.environ,
        'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
        'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}',
        'COLUMNS': '200',
    }
    done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True, timeout=600)
    said = done.stdout + done.stderr
    assert done.returncode == 0, f'{place}: {command}\n{said}'
    assert blocks.holds(said, expected), f'{place}: {command}\n{said}'


@pytest.mark.parametrize(
    ('page', 'block'),
    [(page, block) for page in PAGES for block in blocks.blocks(page) if block.needs],
    ids=lambda value: value if isinstance(value, str) else value.line,
)
def test_code_that_cannot_run_here(page, block):
    compile(block.text, page, 'exec')
    pytest.skip(block.needs)


@pytest.mark.parametrize('page', PAGES)
def test_pages_that_import_modules_of_users_say_how_python_finds_them(page):
    code = ''.join(block.text for block in blocks.blocks(page))
    for imports in re.findall(r'imports=\[([^]]*)\]', code):
        if set(re.findall(r"'([^']+)'", imports)) - {'mmesbnn'}:
            assert 'PYTHONPATH="$PWD:$PYTHONPATH" mim train' in code


def test_blocks_are_read():
    code = 'cd a && python x.py --b "c d" \\\n    e  # f\nmake g\n'
    assert blocks.commands(code) == [
        ['cd', 'a'],
        ['python', 'x.py', '--b', 'c d', 'e'],
        ['make', 'g'],
    ]
    talk = list(blocks.dialogue('$ a b\nc ... d\n\n$ e\n'))
    assert talk == [('a b', ['c ... d']), ('e', [])]
    assert blocks.holds('x\nc 12 d\ny', ['c ... d', 'y'])
    assert not blocks.holds('y\nc 12 d', ['c ... d', 'y'])
    assert blocks.Block(1, 'python', '# needs a file\nx').needs == 'needs a file'
    assert not blocks.Block(1, 'python', 'x  # needs a file').needs


@pytest.mark.parametrize('page', PAGES)
def test_lines_of_code_fit_on_the_page(page):
    for block in blocks.blocks(page):
        for number, line in enumerate(block.text.splitlines(), block.line):
            assert len(line) <= 100, f'{page}:{number} has {len(line)} characters'


def test_wrong_commands_are_found(parse):
    for words in (
        ['make', 'nothing'],
        ['python', 'tools/nothing.py'],
        ['mim', 'train', 'mmpretrain', 'configs/nothing.py'],
        ['rm', '-r', 'x'],
    ):
        with pytest.raises(AssertionError):
            check_command(words, parse)
    with pytest.raises(SystemExit):
        check_command(['python', 'tools/count_ops.py', 'CONFIG', '--nothing'], parse)
