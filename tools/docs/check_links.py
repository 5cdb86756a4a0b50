"""Check all links of the built documentation site, without a network.

    python tools/docs/check_links.py [build/site]

A link inside the site must lead to a file, and to an anchor that this file has. Links to
other sites must be https. Scripts, styles and pictures must be files of the site, so that its
pages work without a network. Exit status 0: all links are correct; 1: some are not, and the
output names them.
"""

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mmesbnn import cli, options

#: Attributes that hold a link, and whether the browser loads its target with the page.
ATTRIBUTES = {('a', 'href'): False, ('img', 'src'): True, ('script', 'src'): True}


class Page(HTMLParser):
    """Anchors and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loaded = {''}, set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = {name: value for name, value in attrs if value is not None}
        self.anchors |= {found[name] for name in ('id', 'name') if name in found}
        for (kind, name), loads in ATTRIBUTES.items():
            if tag == kind and name in found:
                (self.loaded if loads else self.links).add(found[name])
        if tag == 'link' and found.get('rel') in ('stylesheet', 'icon'):
            self.loaded.add(found.get('href', ''))


def why_wrong(link, page, pages, loads):
    """Return the reason why a link of a page is wrong, or None if it is correct.

    Args:
        link: Target as in the page.
        page: Path of the page.
        pages: All pages of the site by their paths.
        loads: True if the browser loads the target with the page.
    """
    parts = urlsplit(link)
    if parts.scheme == 'data':
        return None
    if parts.scheme or parts.netloc:
        if loads:
            return 'is loaded from another site'
        return None if parts.scheme in ('https', 'mailto') else 'is not https'
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    path = path / 'index.html' if path.is_dir() else path
    if not path.is_file():
        return 'leads to no file'
    if path in pages and unquote(parts.fragment) not in pages[path].anchors:
        return 'leads to no anchor of the page'
    return None


def wrong_links(site):
    """List the wrong links of a site as sentences.

    Args:
        site: Folder of the built site.
    """
    site = site.resolve()
    pages = {path: Page(path.read_text(encoding='utf-8')) for path in sorted(site.rglob('*.html'))}
    found = []
    for path, page in pages.items():
        if path == site / '404.html':  # its links begin at the root of a server
            continue
        for loads, links in ((False, page.links), (True, page.loaded)):
            reasons = {link: why_wrong(link, path, pages, loads) for link in sorted(links)}
            found += [
                f'{path.relative_to(site)}: {link[:100]} {reason}'
                for link, reason in reasons.items()
                if reason
            ]
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('site', type=options.path, nargs='?', default=Path('build', 'site'))
    site = parser.parse_args().site
    if not (site / 'index.html').is_file():
        raise FileNotFoundError(f'site={str(site)!r} must be a built site: run `make docs`')
    found = wrong_links(site)
    print('\n'.join(found) or f'All links of {site} are correct.')
    sys.exit(bool(found))


if __name__ == '__main__':
    cli.run(main)
