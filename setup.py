"""Metadata of the package, and the build step that lets ``mim`` find it.

``mim`` and mmengine look for configs and tools inside the installed package, under
``mmesbnn/.mim``. In the repository these folders are beside the package. The build
therefore adds copies to a wheel and links to an editable install, so that an edited config
takes effect at once. ``mim run mmesbnn`` and ``mim search mmesbnn`` find the package by its
name through ``pkg_resources``, which cannot see an editable install. They need a plain
``pip install .``. mmengine's ``package::config`` and ``mim train`` work for OpenMMLab's own
packages only: no install adds this one to mmengine's list, and training needs their tools.
"""

import os
import re
import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_ENTRIES = ('configs', 'tools', 'model-index.yml')

# Requirements of the `mim` command line. opendatalab 0.0.10 requires openxlab, which
# requires setuptools 60 and old releases of requests, rich and packaging. This project uses
# none of it. setuptools 82 removed pkg_resources, which mim and mmengine's
# `package::config` look-ups import.
MIM = ['openmim>=0.3', 'opendatalab!=0.0.10', 'setuptools<82']
CLS = ['mmpretrain>=1.0', 'torchvision', *MIM]
DET = ['mmdet>=3.0', 'mmcv>=2.0.0,<2.2.0', 'torchvision', *MIM]
# BinaryConfig needs diffusers 0.39, see mmesbnn/diffusion/registration.py. All tests of
# tests/diffusion pass with 0.39.0. Releases before 0.33 cannot recompute BIDiffSRUNet in the
# backward pass, and with 0.33 some other tests fail. With any quantization_config,
# from_pretrained of diffusers needs accelerate.
SR = ['diffusers>=0.39', 'accelerate', 'safetensors', 'pillow']
# For names on a hub; folders need safetensors only. The errors of 0.24 have other names.
HUB = ['huggingface_hub>=0.25', 'safetensors']
# Binary layers run on OpenVINO's BinaryConvolution, which a later year may drop.
DEPLOY = ['openvino>=2024.0,<2027', 'safetensors', 'pillow', 'onnx', 'onnxruntime']
FPGA = ['qonnx>=1.0', 'onnx', 'onnxruntime', 'safetensors']
DEMO = ['scikit-learn', 'scikit-image', 'matplotlib', 'scipy', 'tqdm']
# For the int8 rivals of tools/benchmarks/latency.py
BENCH = ['nncf>=3.4']
DOCS = ['mkdocs>=1.6,<2', 'mkdocs-material>=9.7', 'mkdocstrings[python]>=1.0']
TEST = [
    *['pytest', 'pytest-xdist', 'hypothesis', 'packaging', 'ruff', 'mypy'],
    # of releases, and of the schemas of files for GitHub
    *['build', 'twine', 'check-jsonschema', 'pyyaml'],
]

EXTRAS = {
    # mmcv-lite is pure Python and enough for classification. Compiling mmcv takes long.
    'cls': [*CLS, 'mmcv-lite>=2.0.0'],
    'det': DET,
    'sr': SR,
    'deploy': DEPLOY,
    'fpga': FPGA,
    'hub': HUB,
    'demo': DEMO,
    # Full mmcv instead of mmcv-lite, because the two overwrite each other's files. Install
    # [all], never [cls,det].
    'all': [*CLS, *DET, *SR, *DEPLOY, *FPGA, *HUB, *DEMO],
    'bench': BENCH,
    'test': [*TEST, *BENCH, 'safetensors'],
    'docs': DOCS,
}


def read_version() -> str:
    """Read the version without importing the package, which would need torch."""
    text = (ROOT / 'mmesbnn' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE).group(1)


#: Links and pictures of Markdown whose addresses are paths of the repository.
RELATIVE = re.compile(r'(!?)\[([^]]*)\]\((?!https?://|#)([^)]+)\)')


def long_description(version: str, address: str) -> str:
    """Return the README for a package index, where a path of the repository leads nowhere.

    Paths become addresses in the repository, at the tag of the version. Without an address the
    text keeps the words of links and no pictures.
    """
    readme = ROOT / 'README.md'

    def absolute(found: re.Match) -> str:
        picture, words, path = found.groups()
        if not address:
            return '' if picture else words
        place = f'{address}/{"raw" if picture else "blob"}/v{version}/{path}'
        return f'{picture}[{words}]({place})'

    return RELATIVE.sub(absolute, readme.read_text(encoding='utf-8')) if readme.exists() else ''


def remove(path: Path) -> None:
    """Remove a file, link or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder without Python's caches."""
    if source.is_dir():
        ignore = shutil.ignore_patterns('__pycache__', '*.py[co]')
        shutil.copytree(source, target, ignore=ignore)
    else:
        shutil.copy2(source, target)


class BuildWithMim(build_py):
    """Build the modules, then put configs, tools and indexes under ``.mim``."""

    def run(self) -> None:
        super().run()
        editable = getattr(self, 'editable_mode', False)
        mim = (ROOT if editable else Path(self.build_lib)) / 'mmesbnn' / '.mim'
        remove(mim)
        mim.mkdir(parents=True)
        for source in filter(Path.exists, (ROOT / name for name in MIM_ENTRIES)):
            target = mim / source.name
            if not editable:
                copy(source, target)
                continue
            try:
                target.symlink_to(
                    Path('..', '..', source.name), target_is_directory=source.is_dir()
                )
            except (OSError, NotImplementedError):  # for example on Windows without the privilege
                copy(source, target)


class BuildKernels(build_ext):
    """Compile the native kernels, a plain shared library that ctypes loads.

    They are optional: without a compiler, setuptools prints the error and continues. The build
    fails without them if ``MMESBNN_REQUIRE_KERNELS`` is 1.
    """

    def build_extension(self, extension: Extension) -> None:
        if self.compiler.compiler_type == 'msvc':
            extension.extra_compile_args = ['/std:c++17', '/O2', '/EHsc']
        super().build_extension(extension)

    def get_ext_filename(self, fullname: str) -> str:
        # without the version of Python, because the library does not use Python
        return os.path.join(*fullname.split('.')) + ('.pyd' if os.name == 'nt' else '.so')

    def get_export_symbols(self, extension: Extension) -> list:
        return []  # not a Python module, so it has no PyInit function


class WheelOfAnyPython(bdist_wheel):
    """Name the wheel by its platform only, because its library works with every Python."""

    def get_tag(self) -> tuple:
        return 'py3', 'none', super().get_tag()[2]


KERNELS = Extension(
    'mmesbnn.native._kernels',
    sorted(str(path.relative_to(ROOT)) for path in ROOT.glob('mmesbnn/native/src/*.cpp')),
    depends=[
        str(path.relative_to(ROOT))
        for ending in ('h', 'inc')
        for path in ROOT.glob(f'mmesbnn/native/src/*.{ending}')
    ],
    # -g0: Python's own flags ask for debug symbols, which are twenty times the code
    extra_compile_args=['-std=c++17', '-O3', '-g0', '-fvisibility=hidden', '-pthread', '-w'],
    extra_link_args=[] if os.name == 'nt' else ['-pthread'],
    optional=os.environ.get('MMESBNN_REQUIRE_KERNELS') != '1',
)

# Workflows of a repository on GitHub set it. It has no / at the end.
REPOSITORY = os.environ.get('MMESBNN_REPOSITORY', '').rstrip('/')

setup(
    name='mmesbnn',
    version=read_version(),
    url=REPOSITORY or None,
    description='Expanding-and-shrinking binary neural networks for OpenMMLab',
    long_description=long_description(read_version(), REPOSITORY),
    long_description_content_type='text/markdown',
    author='mmesbnn contributors',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmesbnn', 'mmesbnn.*']),
    package_data={'mmesbnn': ['py.typed']},  # type checkers read the package's types
    # No mmcv here: a plain install must leave the user's mmcv or mmcv-lite alone.
    # The lowest versions with which `make test-min` passes. torch 2.4 has no checkpoint policies.
    # mmengine 0.10.3 gives a shared parameter to the optimizer twice.
    install_requires=['torch>=2.5.0', 'mmengine>=0.10.4,<1.0', 'numpy>=1.24.0'],
    extras_require=EXTRAS,
    ext_modules=[KERNELS],
    cmdclass={'build_py': BuildWithMim, 'build_ext': BuildKernels, 'bdist_wheel': WheelOfAnyPython},
    zip_safe=False,
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
