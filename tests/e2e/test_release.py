"""The wheel and the sdist can be published, installed and used outside the checkout."""

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from mmesbnn.datasets import write_digits

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TRY_KERNELS = ROOT / 'tools' / 'dev' / 'try_kernels.py'
HAS_COMPILER = bool(shutil.which('c++'))

CONFIG = """
_base_ = [{base!r}]
data = dict(dataset=dict(data_root='digits'))
train_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False, **data)
val_dataloader = dict(num_workers=0, persistent_workers=False, **data)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
custom_hooks = [dict(type='TemperatureHook', binary_from=1)]
"""


def run(command, folder, **env):
    """Run a command outside the checkout; return its output."""
    inherited = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'CC', 'CXX')}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**inherited, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore', **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def copy_sources(folder):
    """Copy the files that git tracks or would add."""
    listed = subprocess.run(
        ['git', 'ls-files', '-zco', '--exclude-standard'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split('\0')):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    """Build the sdist, and from it the wheel; return the folder."""
    pytest.importorskip('build', reason='the extra `test` is not installed')
    if not shutil.which('git') or not (ROOT / '.git').exists():
        pytest.skip('which files belong to the project is read from a git checkout')
    folder = tmp_path_factory.mktemp('release')
    sources = copy_sources(folder / 'sources')
    run([sys.executable, '-m', 'build', '--no-isolation', '-o', folder / 'dist'], sources)
    return folder / 'dist'


@pytest.fixture(scope='module')
def wheel(dist):
    (path,) = dist.glob('*.whl')
    return path


class Environment:
    """A fresh environment outside the checkout; it sees this one's other packages.

    Args:
        folder: New folder.
        wheel: Wheel of this package to install.
    """

    def __init__(self, folder, wheel):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        venv.create(folder / 'venv', symlinks=True)
        (self.python,) = (folder / 'venv').glob('*/python')
        pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--python', self.python]
        run([*pip, 'install', '--no-deps', '--no-index', wheel], folder)
        (self.package,) = (folder / 'venv').rglob('site-packages/mmesbnn')
        # paths in a .pth file come last, and the .pth files there are not read
        others = '\n'.join(site.getsitepackages())
        (self.package.parent / 'others.pth').write_text(others)

    def run(self, *arguments, **env):
        """Run this environment's Python, with no other programs on the path."""
        path = {'PATH': str(self.python.parent), **env}
        return run([self.python, *arguments], self.folder, **path)


@pytest.fixture(scope='module')
def environment(wheel, tmp_path_factory):
    return Environment(tmp_path_factory.mktemp('installed'), wheel)


def test_twine_accepts_both_files(dist):
    files = sorted(dist.iterdir())
    assert [path.suffix for path in files] == ['.whl', '.gz']
    said = run([sys.executable, '-m', 'twine', 'check', '--strict', *files], dist)
    assert said.count('PASSED') == 2


def test_the_wheel_fits_every_python_of_its_platform(wheel):
    assert '-py3-none-' in wheel.name
    assert not wheel.name.endswith('-any.whl')
    with zipfile.ZipFile(wheel) as archive:
        kernels = [name for name in archive.namelist() if '/_kernels' in name]
        assert [Path(name).stem for name in kernels] == ['_kernels'] * HAS_COMPILER


def test_the_installed_package_is_the_one_that_is_imported(environment):
    code = 'import mmesbnn; from mmesbnn import models, deploy; print(mmesbnn.__file__)'
    assert environment.run('-c', code).strip() == str(environment.package / '__init__.py')


@pytest.mark.skipif(not HAS_COMPILER, reason='there is no C++ compiler')
def test_the_kernels_need_no_compiler(environment):
    assert not shutil.which('c++', path=str(environment.python.parent))
    assert 'portable: exact' in environment.run(TRY_KERNELS)


def test_the_tools_work(environment):
    tools, configs = environment.package / '.mim' / 'tools', environment.package / '.mim/configs'
    for name in ('convert_checkpoint.py', 'infer.py', 'export.py'):
        assert 'usage:' in environment.run(tools / name, '--help'), name
    counted = environment.run(tools / 'count_ops.py', configs / 'es_bnext_tiny.py')
    assert '224' in counted


def test_mim_trains_a_config_of_the_package(environment):
    pytest.importorskip('mmpretrain')
    write_digits(environment.folder / 'digits')
    for split in ('train', 'val'):
        for images in (environment.folder / 'digits' / split).iterdir():
            for image in sorted(images.iterdir())[8:]:
                image.unlink()
    base = environment.package / '.mim' / 'configs' / 'demo' / 'es_bnext_digits.py'
    (environment.folder / 'config.py').write_text(CONFIG.format(base=str(base)))
    command = ['train', 'mmpretrain', 'config.py', '--work-dir', 'work']
    environment.run('-m', 'mim', *command)
    assert (environment.folder / 'work' / 'epoch_2.pth').is_file()
    # and a tool reads the result
    tool = environment.package / '.mim' / 'tools' / 'check_binary.py'
    environment.run(tool, 'config.py', 'work/epoch_2.pth')


def test_an_install_without_a_compiler_works_and_says_so_once(dist, tmp_path):
    (sdist,) = dist.glob('*.tar.gz')
    (tmp_path / 'bin').mkdir()
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'wheel', '-v']
    offline = ['--no-build-isolation', '--no-deps', '--no-index']
    said = run([*pip, *offline, '-w', tmp_path, sdist], tmp_path, PATH=str(tmp_path / 'bin'))
    assert said.count('building extension "mmesbnn.native._kernels" failed') == 1
    (wheel,) = tmp_path.glob('*.whl')
    environment = Environment(tmp_path / 'environment', wheel)
    code = 'import mmesbnn; from mmesbnn import native; print(native.problem())'
    assert 'they were not compiled' in environment.run('-c', code)
