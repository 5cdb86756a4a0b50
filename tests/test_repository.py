"""Workflows, templates and metadata of the repository are valid, and name what exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from mmesbnn.version import __version__

ROOT = Path(__file__).resolve().parents[1]
# the git checkout has these files, the sdist leaves them out
pytestmark = pytest.mark.skipif(
    not (ROOT / '.github').exists(), reason='the files of the repository are not here'
)
WORKFLOWS = sorted((ROOT / '.github' / 'workflows').glob('*.yml'))
#: Files of the repository's host, and the names of their schemas.
SCHEMAS = {
    'CITATION.cff': 'vendor.citation-file-format',
    '.github/dependabot.yml': 'vendor.dependabot',
    '.github/ISSUE_TEMPLATE/bug.yml': 'vendor.github-issue-forms',
    '.github/ISSUE_TEMPLATE/feature.yml': 'vendor.github-issue-forms',
    '.github/ISSUE_TEMPLATE/config.yml': 'vendor.github-issue-config',
    **{str(path.relative_to(ROOT)): 'vendor.github-workflows' for path in WORKFLOWS},
}


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding='utf-8'))


def problems(path, schema):
    """Return the problems of a file; an empty string if it fits the schema."""
    command = [sys.executable, '-m', 'check_jsonschema', '--force-filetype', 'yaml']
    done = subprocess.run(
        [*command, '--builtin-schema', schema, str(path)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    return '' if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize('name', SCHEMAS)
def test_the_file_fits_its_schema(name, tmp_path):
    pytest.importorskip('check_jsonschema', reason='the extra `test` is not installed')
    assert problems(ROOT / name, SCHEMAS[name]) == ''


def test_every_file_for_the_host_has_a_schema():
    found = {str(path.relative_to(ROOT)) for path in (ROOT / '.github').rglob('*.yml')}
    assert found | {'CITATION.cff'} == set(SCHEMAS)


def test_faults_are_found(tmp_path):
    pytest.importorskip('check_jsonschema', reason='the extra `test` is not installed')
    workflow = read(WORKFLOWS[0])
    del workflow['jobs']
    (tmp_path / 'workflow.yml').write_text(yaml.safe_dump(workflow))
    assert 'jobs' in problems(tmp_path / 'workflow.yml', 'vendor.github-workflows')


def steps():
    """List the steps of all jobs, with the names of the workflow and the job."""
    return [
        (path.stem, name, step)
        for path in WORKFLOWS
        for name, job in read(path)['jobs'].items()
        for step in job['steps']
    ]


def targets():
    """List the targets that the Makefile explains."""
    text = (ROOT / 'Makefile').read_text()
    return set(re.findall(r'^([a-z-]+):.*?## ', text, re.MULTILINE))


def test_commands_name_targets_and_files_that_exist():
    commands = [step['run'] for _, _, step in steps() if 'run' in step]
    made = {target for line in commands for target in re.findall(r'\bmake ([a-z-]+)', line)}
    assert made <= targets()
    assert {'test', 'test-min', 'test-newest', 'test-onedl', 'docs', 'release-check'} <= made
    for line in commands:
        for name in re.findall(r'(?<=-c )\S+', line):
            assert (ROOT / name).is_file(), line


def test_file_patterns_of_workflows_match_something():
    patterns = []
    for path in WORKFLOWS:
        text = path.read_text()
        patterns += re.findall(r"hashFiles\('(.+?)'\)", text)
        events = read(path)[True]  # YAML 1.1 reads the key `on` as true
        patterns += (events.get('pull_request') or {}).get('paths', [])
    assert patterns
    for pattern in patterns:
        assert any(ROOT.glob(pattern)), pattern


def test_every_job_has_a_limit_and_every_action_a_version():
    for path in WORKFLOWS:
        for name, job in read(path)['jobs'].items():
            assert job['timeout-minutes'] <= 180, name
    for _, job, step in steps():
        assert re.fullmatch(r'[\w-]+/[\w-]+@v\d+', step.get('uses', 'a/b@v1')), job


def test_workflows_and_hooks_use_the_pinned_versions():
    text = (ROOT / 'constraints.txt').read_text()
    pins = dict(re.findall(r'^([\w-]+)==(\S+)$', text, re.MULTILINE))
    (repository,) = read('.pre-commit-config.yaml')['repos']
    requirements = [
        Requirement(line)
        for hook in repository['hooks']
        for line in hook['additional_dependencies']
    ]
    assert {r.name for r in requirements} == {'ruff', 'check-jsonschema'}
    for requirement in requirements:
        assert str(requirement.specifier) == f'=={pins[requirement.name]}'


def test_hooks_check_files_that_exist():
    (repository,) = read('.pre-commit-config.yaml')['repos']
    for hook in repository['hooks']:
        if 'files' in hook:
            pattern = re.compile(hook['files'])
            assert any(pattern.search(name) for name in SCHEMAS), hook['id']


def test_the_citation_names_this_version_and_the_papers_of_the_index():
    citation = read('CITATION.cff')
    assert citation['version'] == __version__
    papers = {
        (collection['Paper']['Title'], collection['Paper']['URL'])
        for name in read('model-index.yml')['Import']
        for collection in read(name)['Collections']
    }
    assert {(each['title'], each['url']) for each in citation['references']} == papers


def test_the_changelog_describes_this_version():
    headings = re.findall(r'^## \[(.+?)\]', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert __version__ in headings[:2]
    assert set(headings) - {'Unreleased'} and headings.count('Unreleased') <= 1


def test_links_of_the_security_page_lead_to_files():
    links = re.findall(r'\]\((.+?)\)', (ROOT / 'SECURITY.md').read_text())
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link
