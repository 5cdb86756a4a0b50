"""Add pages that are not in docs/ to the site, and adapt links to the layout of the site.

mkdocs calls the functions ``on_...``. All links in Markdown files are relative to the
repository, so that they also work where the files are read without the site.
"""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from site_api import api_pages
from site_links import FIXED, replace_links, resolved, site_path, targets
from site_pages import notebook_page, source_page, zoo_page

ROOT = Path(__file__).resolve().parents[2]

#: Paths in the repository of the pages, by their paths on the site.
_SOURCES: dict[str, str] = {}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and every source file that a page links to."""
    _SOURCES.clear()
    for file in files.documentation_pages():
        _SOURCES[file.src_uri] = f'docs/{file.src_uri}'
    _add(files, config, 'model_zoo.md', 'docs/model_zoo.md', zoo_page(ROOT))
    for name, text in api_pages(ROOT).items():
        _add(files, config, f'api/{name}.md', f'docs/api/{name}.md', text)
    for path in [*FIXED, *_below('configs/*/README.md')]:
        _add_file(files, config, path)
    for path in _below('docs/notebooks/*.ipynb'):
        text = notebook_page(_read(path), Path(path).name)
        _add(files, config, site_path(path, ROOT), path, text)
    for file in list(files.documentation_pages()):
        _add_linked(files, config, _SOURCES[file.src_uri], file.content_string)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let the links of a page lead to the pages of the site."""
    here = page.file.src_uri
    source = _SOURCES[here]

    def new(target: str) -> str:
        path, mark, anchor = target.partition('#')
        there = site_path(resolved(source, path), ROOT)
        if there is None or files.get_file_from_path(there) is None:
            return target  # mkdocs warns about it
        return posixpath.relpath(there, posixpath.dirname(here) or '.') + mark + anchor

    return replace_links(markdown, new)


def _below(pattern: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))


def _read(path: str) -> str:
    if (ROOT / path).is_dir():
        return '\n'.join(sorted(each.name for each in (ROOT / path).glob('*.*')))
    return (ROOT / path).read_text(encoding='utf-8')


def _add(files: Files, config: Any, uri: str, source: str, text: str) -> None:
    files.append(File.generated(config, uri, content=text))
    _SOURCES[uri] = source


def _add_file(files: Files, config: Any, path: str) -> None:
    uri = site_path(path, ROOT)
    if uri and files.get_file_from_path(uri) is None:
        _add(files, config, uri, path, source_page(_read(path), path))


def _add_linked(files: Files, config: Any, source: str, text: str) -> None:
    for target in targets(text):
        path = resolved(source, target)
        if (site_path(path, ROOT) or '').startswith('sources/'):
            _add_file(files, config, path)
