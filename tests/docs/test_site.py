"""The documentation site can be built, and its links are correct."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def tools():
    """Import the modules of tools/docs that need no mkdocs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / 'tools' / 'docs'))
        import check_links
        import site_links
        import site_pages

        yield check_links, site_links, site_pages


def test_the_site_is_built_without_warnings_and_its_links_are_correct(tools, tmp_path):
    pytest.importorskip('mkdocs', reason='the extra `docs` is not installed')
    check_links, _, _ = tools
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', tmp_path / 'site'],
        cwd=ROOT,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert check_links.wrong_links(tmp_path / 'site') == []
    home = (tmp_path / 'site' / 'index.html').read_text()
    assert 'docs/demo.png' not in home and 'src="demo.png"' in home
    zoo = (tmp_path / 'site' / 'model_zoo.html').read_text()
    assert 'es-reactnet-a_stage2_8xb32_in1k' in zoo


def test_no_page_is_twice_in_the_navigation():
    lines = (ROOT / 'mkdocs.yml').read_text().partition('\nnav:\n')[2].splitlines()
    pages = [line.rpartition(': ')[2] for line in lines if line.endswith('.md')]
    assert len(pages) > 30 and len(set(pages)) == len(pages)


def test_wrong_links_are_found(tools, tmp_path):
    check_links, _, _ = tools
    (tmp_path / 'index.html').write_text(
        '<h1 id="top">x</h1><a href="#top">1</a><a href="other.html#here">2</a>'
        '<a href="other.html#there">3</a><a href="none.html">4</a><a href="http://a.org">5</a>'
        '<a href="https://a.org">6</a><img src="https://a.org/x.png"><img src="none.png">'
        '<link rel="stylesheet" href="https://a.org/x.css">'
    )
    (tmp_path / 'other.html').write_text('<a name="here" href="index.html#top">x</a>')
    assert [line.partition(' ')[2] for line in check_links.wrong_links(tmp_path)] == [
        'http://a.org is not https',
        'none.html leads to no file',
        'other.html#there leads to no anchor of the page',
        'https://a.org/x.css is loaded from another site',
        'https://a.org/x.png is loaded from another site',
        'none.png leads to no file',
    ]


def test_links_in_code_are_left_alone(tools):
    _, site_links, _ = tools
    text = '[a](b) `[c](d)` [e](#f) [g](https://h)\n```python\nx = [i](j)\n```\n![k](l.png#m)'
    assert list(site_links.targets(text)) == ['b', 'l.png']
    assert site_links.replace_links(text, lambda target: 'new') == text.replace(
        '(b)', '(new)'
    ).replace('(l.png#m)', '(new)')


@pytest.mark.parametrize(
    ('source', 'target', 'path', 'page'),
    [
        ('README.md', 'docs/tools.md', 'docs/tools.md', 'tools.md'),
        ('docs/tools.md', '../README.md', 'README.md', 'index.md'),
        ('docs/copies.md', '../configs/bnext', 'configs/bnext', 'networks/bnext.md'),
        ('configs/bnext/README.md', '../bidet/README.md', 'configs/bidet/README.md', None),
        ('README.md', 'docs/notebooks/a.ipynb', 'docs/notebooks/a.ipynb', 'notebooks/a.md'),
        ('README.md', 'LICENSE', 'LICENSE', 'sources/LICENSE.md'),
    ],
)
def test_pages_of_files(tools, source, target, path, page):
    _, site_links, _ = tools
    assert site_links.resolved(source, target) == path
    assert site_links.site_path(path, ROOT) == (page or 'networks/bidet.md')
    assert site_links.site_path('no/such/file', ROOT) is None


def test_a_notebook_becomes_a_page(tools):
    _, _, site_pages = tools
    image = {'output_type': 'display_data', 'data': {'image/png': 'AA==\n'}}
    cells = [
        {'cell_type': 'markdown', 'source': ['# Title']},
        {
            'cell_type': 'code',
            'source': ['print(1)\n', '2'],
            'outputs': [
                {'output_type': 'stream', 'text': ['1\n']},
                {'output_type': 'execute_result', 'data': {'text/plain': ['2']}},
                image,
            ],
        },
    ]
    page = site_pages.notebook_page(json.dumps({'cells': cells}), 'a.ipynb')
    title, link, code, printed, result, picture = page.strip().split('\n\n')
    assert title == '# Title' and '(a.ipynb)' in link
    assert code == '```python\nprint(1)\n2\n```'
    assert printed == '```text\n1\n```' and result == '```text\n2\n```'
    assert 'base64,AA=="' in picture


def test_the_zoo_lists_every_network_of_the_index(tools):
    _, _, site_pages = tools
    page = site_pages.zoo_page(ROOT)
    for name in (ROOT / 'configs').glob('*/metafile.yml'):
        for line in name.read_text().splitlines():
            if line.startswith('  - Name: ') and 'In Collection' not in line:
                assert line.removeprefix('  - Name: ') in page
    assert [site_pages._amount(n) for n in (87126016, 3.2e9, 1.5e6)] == [
        '87.1 M',
        '3.20 G',
        '1.50 M',
    ]
