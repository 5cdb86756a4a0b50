"""Code blocks of Markdown pages.

Three kinds of blocks are tested, by the language after the opening fence:

- ``python``: the blocks of a page run one after the other in one namespace. A block whose
  first line is a comment ``# needs ...`` is compiled only; readers see the reason, too. A
  block whose first line is ``# NAME.py`` is a config, and is written to that file.
- ``console``: lines after ``$`` run, and their output must hold the lines below them.
  ``...`` stands for any text.
- ``shell``: the commands are parsed only. Indented commands count as well.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ('README.md', 'CONTRIBUTING.md', 'docs/**/*.md', 'configs/*/README.md')
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r'^( *)```(\w*)[^\n]*\n(.*?)^\1```\s*$', re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r'^ {4,}((?:python|make|mim|pip|pytest) (?:.*\\\n)*.*)$', re.MULTILINE)
FILE = re.compile(r'# (\w+\.py)\n')
NEEDS = re.compile(r'# (needs .*)')


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        line: Line of the page at which the code begins, counted from 1.
        language: Language after the fence.
        text: Code without the indentation of the fence.
    """

    line: int
    language: str
    text: str

    @property
    def needs(self):
        """Return what the block needs to run, or None if it can run here."""
        found = NEEDS.match(self.text)
        return found and found[1]

    @property
    def file(self):
        """Return the name of the file that the block shows, or None."""
        found = FILE.match(self.text)
        return found and found[1]


def blocks(page):
    """List the fenced blocks of a page."""
    text = (ROOT / page).read_text()
    found = []
    for fence in FENCE.finditer(text):
        lines = fence[3].splitlines(keepends=True)
        code = ''.join(line.removeprefix(fence[1]) for line in lines)
        found.append(Block(text[: fence.start(3)].count('\n') + 1, fence[2], code))
    return found


def commands(text):
    """List the commands of shell code, each as a list of words, without comments."""
    joined = text.replace('\\\n', ' ')
    parts = [shlex.split(line, comments=True) for line in joined.splitlines()]
    found = []
    for words in filter(None, parts):
        while '&&' in words:
            place = words.index('&&')
            found.append(words[:place])
            words = words[place + 1 :]
        found.append(words)
    return found


def indented_commands(page):
    """List the commands of a page's indented code."""
    text = FENCE.sub('', (ROOT / page).read_text())
    return [words for code in INDENTED.findall(text) for words in commands(code)]


def dialogue(text):
    """Yield the commands of a console block, and the output that each one must have."""
    command, output = None, []
    for line in text.replace('\\\n', ' ').splitlines():
        if line.startswith('$ '):
            if command:
                yield command, output
            command, output = line.removeprefix('$ '), []
        elif line.strip():
            output.append(line)
    if command:
        yield command, output


def holds(output, expected):
    """Return True if the lines ``expected`` stand in the output, in this order.

    Args:
        output: Text that a command has printed.
        expected: Lines; ``...`` in them stands for any text.
    """
    lines = iter(output.splitlines())
    patterns = ['.*'.join(map(re.escape, re.split(r'\.\.\.', line.strip()))) for line in expected]
    return all(any(re.fullmatch(pattern, line.strip()) for line in lines) for pattern in patterns)
