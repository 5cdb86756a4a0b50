"""The package needs only torch and mmengine; errors name other missing packages."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BINARY = sorted((ROOT / 'mmesbnn/binary').rglob('*.py'))

BLOCK = """
import sys

class Block:
    names = {'mmcv', 'mmpretrain', 'mmdet', 'diffusers', 'openvino', 'timm', 'huggingface_hub'}

    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in self.names:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Block())
"""

BUILD = """
import mmesbnn
import torch
from mmengine.registry import MODELS

model = MODELS.build(dict(
    type='BNext', arch=dict(channels=[16, 32, 32]), tau=2, stem_stride=1))
model(torch.randn(2, 3, 8, 8))[-1].sum().backward()
print('BNext', tuple(model.eval()(torch.randn(2, 3, 8, 8))[-1].shape))
for name in ('DistillClassifier', 'MinMaxLinearClsHead'):
    try:
        MODELS.build(dict(type=name))
    except ImportError as error:
        print(error)
print('loaded', sorted(Block.names & set(sys.modules)))
"""


def python(code, folder):
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    return subprocess.run(
        [sys.executable, '-c', code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
    )


def test_package_works_without_the_optional_packages(tmp_path):
    result = python(BLOCK + BUILD, tmp_path)
    assert result.returncode == 0, result.stderr
    sentence = "needs mmpretrain, which is not installed: pip install 'mmesbnn[cls]'"
    shape, *sentences, loaded = result.stdout.splitlines()
    assert shape.startswith('BNext (2, 32, ')
    assert sentences == [f'DistillClassifier {sentence}', f'MinMaxLinearClsHead {sentence}']
    assert loaded == 'loaded []'


def test_import_leaves_the_optional_packages_alone(tmp_path):
    optional = {'mmcv', 'mmpretrain', 'mmdet', 'diffusers', 'openvino', 'timm', 'huggingface_hub'}
    optional |= {'mmesbnn.deploy', 'mmesbnn.pretrained'}  # they import much
    code = f'import sys, mmesbnn; print(sorted({optional!r} & set(sys.modules)))'
    result = python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == '[]'


@pytest.mark.parametrize('name, package', [('Runner', 'PIL'), ('export', 'openvino')])
def test_names_of_deploy_say_how_to_install_what_they_need(name, package, tmp_path):
    result = python(
        f'{BLOCK}Block.names = {{{package!r}}}\nfrom mmesbnn.deploy import {name}', tmp_path
    )
    sentence = f"{name} needs {package}, which is not installed: pip install 'mmesbnn[deploy]'"
    assert result.stderr.splitlines()[-1] == f'ImportError: {sentence}'


def imports(path):
    """Yield the top-level packages that a file imports; a dot per level if relative."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield '.' * node.level + (node.module or '').partition('.')[0]


def test_the_binary_folder_has_files():
    assert {'__init__.py', 'layers.py'} <= {path.name for path in BINARY}


@pytest.mark.parametrize('path', BINARY, ids=lambda path: path.name)
def test_binary_core_imports_torch_only(path):
    found = {name for name in imports(path) if not name.startswith('.')}
    assert found - sys.stdlib_module_names <= {'torch'}
    # and nothing of mmesbnn outside of its folder, except modules without torch
    outside = {name for name in imports(path) if name.startswith('..')}
    assert outside <= {'..checks', '..native'}
