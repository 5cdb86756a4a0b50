"""The package has the right files, extras that fit together, and pins."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from itertools import chain
from pathlib import Path

import pytest
import setuptools
from mmengine.config.utils import MODULE2PACKAGE
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--no-input']


def run(command, cwd, **env):
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repository_files():
    """Return all files that git tracks or would add, relative to the root."""
    if not shutil.which('git') or not (ROOT / '.git').exists():
        pytest.skip('which files belong to the project is read from a git checkout')
    listed = run(['git', 'ls-files', '-zco', '--exclude-standard'], cwd=ROOT)
    return [name for name in map(Path, listed.split('\0')[:-1]) if is_file(name)]


def is_file(name):
    return (ROOT / name).is_file()  # this excludes a tracked file that was deleted


@pytest.fixture
def sources(tmp_path):
    """Make a fresh copy of the repository's files, like a clone."""
    copy = tmp_path / 'sources'
    for name in repository_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    return copy


def read_metadata(address=''):
    """Return the keywords that setup.py gives to setuptools, in a repository with an address."""
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMESBNN_REPOSITORY', address)
        patch.setattr(setuptools, 'setup', lambda **keywords: seen.update(keywords))
        patch.chdir(ROOT)
        runpy.run_path(str(ROOT / 'setup.py'))
    return seen


@pytest.fixture(scope='module')
def metadata():
    return read_metadata()


def names(requirements):
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def find_installed(site_packages, cwd):
    """Return the folder of the package for mmengine (and for mim)."""
    code = (
        f'import site; site.addsitedir({str(site_packages)!r});'
        'from mmengine.utils import get_installed_path; '
        'print(get_installed_path("mmesbnn"))'
    )
    path = run([sys.executable, '-c', code], cwd, PYTHONPATH=str(site_packages))
    return Path(path.strip())


@pytest.mark.parametrize('origin', ['repository', 'sdist'])
def test_wheel_holds_the_package_and_what_mim_needs_only(sources, tmp_path, origin):
    # Files of an editable install or a run must not get into a wheel.
    stray = sources / 'mmesbnn' / '.mim' / 'configs' / 'stray.py'
    cache = sources / 'tools' / '__pycache__' / 'train.cpython-311.pyc'
    for path in (stray, cache):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    if origin == 'sdist':
        build = f'from setuptools import build_meta as b; b.build_sdist({str(tmp_path)!r})'
        run([sys.executable, '-c', build], cwd=sources)
        (sources,) = tmp_path.glob('mmesbnn-*.tar.gz')
    run([*PIP, 'wheel', *OFFLINE, '-w', tmp_path, sources], cwd=tmp_path)

    (wheel,) = tmp_path.glob('mmesbnn-*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / 'site')
    found = {
        path.relative_to(tmp_path / 'site').as_posix()
        for path in (tmp_path / 'site').rglob('*')
        if path.is_file() and '.dist-info' not in str(path)
    }
    expected = {'mmesbnn/py.typed'}
    for path in repository_files():
        if path.parts[0] == 'mmesbnn' and path.suffix == '.py':
            expected.add(path.as_posix())
        elif path.parts[0] in ('configs', 'tools', 'model-index.yml'):
            expected.add(f'mmesbnn/.mim/{path.as_posix()}')
    # compiled where there is a compiler
    kernels = {name for name in found if name.startswith('mmesbnn/native/_kernels.')}
    assert len(kernels) == bool(shutil.which('c++'))
    assert found - kernels == expected
    assert find_installed(tmp_path / 'site', tmp_path) == tmp_path / 'site' / 'mmesbnn'


def test_sdist_holds_all_tracked_files_but_hidden_ones(sources, tmp_path):
    build = f'from setuptools import build_meta as b; b.build_sdist({str(tmp_path)!r})'
    run([sys.executable, '-c', build], cwd=sources)
    (sdist,) = tmp_path.glob('mmesbnn-*.tar.gz')
    with tarfile.open(sdist) as archive:
        found = {str(Path(*Path(name).parts[1:])) for name in archive.getnames()}
    tracked = filter(is_file, run(['git', 'ls-files', '-z'], cwd=ROOT).split('\0')[:-1])
    assert {name for name in tracked if not name.startswith('.')} - found == set()


@pytest.fixture
def environment(tmp_path):
    """Make a fresh environment; return its Python and a function that runs its pip."""
    venv.create(tmp_path / 'venv', with_pip=True)
    (python,) = (tmp_path / 'venv').glob('*/python')
    tools = tmp_path / 'build_tools'
    tools.mkdir()
    here = Path(setuptools.__file__).parent
    for name in ('setuptools', 'pkg_resources', '_distutils_hack'):
        (tools / name).symlink_to(here.with_name(name), target_is_directory=True)

    def pip(*arguments):
        flags = ['-m', 'pip', '--disable-pip-version-check', '--no-input']
        run([python, *flags, *arguments], tmp_path, PYTHONPATH=str(tools))

    return python, pip


PURELIB = 'import sysconfig; print(sysconfig.get_path("purelib"))'
FIND = 'import importlib.util as u; s = u.find_spec("{}"); print(s and s.origin)'
OFFLINE = ['--no-build-isolation', '--no-deps', '--no-index']


def test_editable_install_links_configs_and_tools(sources, environment, tmp_path):
    python, pip = environment
    pip('install', *OFFLINE, '-e', sources)
    package = sources / 'mmesbnn'
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (package / '.mim' / name).samefile(sources / name)
    # only the package becomes importable, not the folders beside it
    for name in ('tests', 'tools', 'configs', 'setup'):
        assert run([python, '-I', '-c', FIND.format(name)], tmp_path).strip() == 'None', name


def test_editable_install_can_be_removed_and_replaced(sources, environment, tmp_path):
    python, pip = environment
    where = [python, '-I', '-c', FIND.format('mmesbnn')]
    source = str(sources / 'mmesbnn' / '__init__.py')

    pip('install', *OFFLINE, '-e', sources)
    assert run(where, tmp_path).strip() == source
    pip('uninstall', '--yes', 'mmesbnn')
    assert run(where, tmp_path).strip() == 'None'

    pip('install', *OFFLINE, '-e', sources)
    pip('install', *OFFLINE, sources)
    purelib = run([python, '-I', '-c', PURELIB], tmp_path).strip()
    assert run(where, tmp_path).strip() == f'{purelib}/mmesbnn/__init__.py'


@pytest.mark.skipif(not shutil.which('git'), reason='needs git')
def test_what_the_build_leaves_is_ignored_by_git(sources):
    run(['git', 'init', '-q'], cwd=sources)
    run(['git', 'add', '-A'], cwd=sources)
    for path in ('build/lib/a.py', 'mmesbnn/.mim/configs/a.py', 'mmesbnn.egg-info/a'):
        (sources / path).parent.mkdir(parents=True)
        (sources / path).touch()
    assert run(['git', 'ls-files', '-o', '--exclude-standard'], cwd=sources) == ''


def test_model_index_names_files_that_exist():
    lines = (ROOT / 'model-index.yml').read_text().splitlines()
    imported = [line.strip(' -') for line in lines if line.lstrip().startswith('- ')]
    assert imported
    for name in imported:
        assert (ROOT / name).is_file(), name


def test_no_install_makes_our_configs_known_to_mmengine():
    """mmengine lists the packages of OpenMMLab; `mim train` needs a tool that is not here."""
    assert 'mmesbnn' not in MODULE2PACKAGE and not (ROOT / 'tools' / 'train.py').exists()
    promises = (ROOT / 'setup.py').read_text()
    assert 'mmesbnn::' not in promises and 'mim train mmesbnn' not in promises


def test_plain_install_leaves_mmcv_alone(metadata):
    assert names(metadata['install_requires']) == {'torch', 'mmengine', 'numpy'}


def test_no_extra_mixes_mmcv_and_mmcv_lite(metadata):
    for extra, requirements in metadata['extras_require'].items():
        assert not {'mmcv', 'mmcv-lite'} <= names(requirements), extra


def test_all_contains_every_extra_of_users(metadata):
    extras = dict(metadata['extras_require'])
    everything = set(extras.pop('all'))
    extras.pop('test')
    extras.pop('docs')  # builds the site only
    extras.pop('bench')  # rivals in a benchmark
    assert set(extras) == {'cls', 'det', 'sr', 'deploy', 'fpga', 'hub', 'demo'}
    for extra, requirements in extras.items():
        missing = set(requirements) - everything
        assert names(missing) <= {'mmcv-lite'}, extra


def test_pins_lie_inside_the_ranges(metadata):
    text = re.sub(r'#.*', '', (ROOT / 'constraints.txt').read_text())
    pins = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        pin = Requirement(line)
        (only,) = pin.specifier
        if only.operator == '<':  # excludes versions that break other packages
            continue
        assert only.operator == '==', line
        assert pins.setdefault(canonicalize_name(pin.name), only.version)
    extras = metadata['extras_require'].values()
    ranges = [*metadata['install_requires'], *chain.from_iterable(extras)]
    for requirement in map(Requirement, ranges):
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f'constraints.txt does not pin {requirement.name}'
        assert requirement.specifier.contains(version), (requirement, version)


def test_version_is_that_of_the_package(metadata):
    version = runpy.run_path(str(ROOT / 'mmesbnn' / 'version.py'))['__version__']
    assert metadata['version'] == version


CODE = re.compile(r'```.*?```', re.DOTALL)
LINK = re.compile(r'(!?)\[[^]]*\]\(([^)]+)\)')


@pytest.mark.parametrize(
    'address', ['https://code.example.org/a/b', 'https://code.example.org/a/b/']
)
def test_a_package_index_gets_addresses_in_the_repository(address):
    text = (ROOT / 'README.md').read_text()
    data = read_metadata(address)
    assert data['url'] == 'https://code.example.org/a/b'
    before, after = LINK.findall(text), LINK.findall(data['long_description'])
    assert len(before) == len(after) and any(picture for picture, _ in before)
    for (picture, path), (_, moved) in zip(before, after):
        if path.startswith('https://'):
            assert moved == path
            continue
        assert (ROOT / path).is_file()
        kind = 'raw' if picture else 'blob'
        assert moved == f'{data["url"]}/{kind}/v{data["version"]}/{path}'
    assert CODE.findall(data['long_description']) == CODE.findall(text)


def test_without_an_address_a_package_index_gets_no_paths(metadata):
    text = metadata['long_description']
    assert metadata['url'] is None
    links = LINK.findall(text)
    assert links and all(path.startswith('https://') and not picture for picture, path in links)
    assert 'docs/' not in CODE.sub('', text)
    assert '| Get started | pip, an existing' in text
    assert CODE.findall(text) == CODE.findall((ROOT / 'README.md').read_text())


def test_the_lowest_versions_are_those_that_are_required(metadata):
    tool = ROOT / 'tools' / 'dev' / 'lowest.py'
    pins = list(map(Requirement, run([sys.executable, tool], cwd=ROOT).split()))
    required = list(map(Requirement, metadata['install_requires']))
    assert [pin.name for pin in pins] == [each.name for each in required]
    for pin, requirement in zip(pins, required, strict=True):
        (only,) = pin.specifier
        lower = [each for each in requirement.specifier if each.operator == '>=']
        assert [each.version for each in lower] == [only.version]


def test_a_requirement_without_a_lower_bound_is_refused():
    lowest = runpy.run_path(str(ROOT / 'tools' / 'dev' / 'lowest.py'))['lowest']
    assert lowest(['a>=1.2,<3', 'b-c>=0.1']) == ['a==1.2', 'b-c==0.1']
    with pytest.raises(ValueError, match=r"'numpy' in setup\.py must begin with NAME>=VERSION"):
        lowest(['numpy'])
