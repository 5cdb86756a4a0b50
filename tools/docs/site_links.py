"""Links of pages: their targets in the repository and on the site."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

#: ``[text](target)`` and ``![text](target)``; the target is group 2.
LINK = re.compile(r'(\]\()([^()\s]+)(\))')
#: Code, in which brackets are no links.
CODE = re.compile(r'^(`{3,}).*?^\1[ \t]*$|(`+)(?!`).+?(?<!`)\2(?!`)', re.DOTALL | re.MULTILINE)
OUTSIDE = ('http://', 'https://', 'mailto:', '#')


def replace_links(text: str, new: Callable[[str], str]) -> str:
    """Return Markdown text whose links have new targets.

    Args:
        text: Markdown. Links inside code are left alone.
        new: Returns the new target of a target inside the repository.
    """

    def replaced(part: str) -> str:
        return LINK.sub(lambda found: found[1] + new_or_same(found[2]) + found[3], part)

    def new_or_same(target: str) -> str:
        return target if target.startswith(OUTSIDE) else new(target)

    parts, end = [], 0
    for code in CODE.finditer(text):
        parts += [replaced(text[end : code.start()]), code[0]]
        end = code.end()
    return ''.join([*parts, replaced(text[end:])])


def targets(text: str) -> Iterator[str]:
    """Yield all targets of links inside the repository, without their anchors."""
    found: list[str] = []
    replace_links(text, lambda target: found.append(target) or target)
    yield from (target.partition('#')[0] for target in found)


def resolved(source: str, target: str) -> str:
    """Return the path in the repository of a link's target.

    Args:
        source: Path of the page that has the link.
        target: Target without an anchor, relative to the page.
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def site_path(path: str, root: Path) -> str | None:
    """Return where a file of the repository is on the site, or None if there is no such file.

    Args:
        path: Path in the repository.
        root: Folder of the repository.
    """
    if path in FIXED:
        return FIXED[path]
    if path.startswith('docs/'):
        page = path.removeprefix('docs/')
        return page.removesuffix('.ipynb') + '.md' if page.endswith('.ipynb') else page
    family = re.fullmatch(r'configs/(\w+)(/README\.md)?', path)
    if family and (root / 'configs' / family[1] / 'README.md').exists():
        return f'networks/{family[1]}.md'
    return f'sources/{path}.md' if (root / path).exists() else None


#: Pages that are files in the root of the repository.
FIXED = {
    'README.md': 'index.md',
    'CHANGELOG.md': 'changelog.md',
    'CONTRIBUTING.md': 'contributing.md',
}
