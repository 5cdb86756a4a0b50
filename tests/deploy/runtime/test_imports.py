"""The runtime imports neither torch nor OpenMMLab, directly or indirectly."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[3] / 'mmesbnn'
FORBIDDEN = {'torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'diffusers'}
#: The root package. Its ``__init__`` imports none of these directly.
ROOT = ('mmesbnn',)


def is_for_types(node):
    return isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test)


def imports(nodes, package):
    """Yield the full names, split at the dots, of the modules that nodes import."""
    for node in nodes:
        if is_for_types(node):
            yield from imports(node.orelse, package)
        elif isinstance(node, ast.Import):
            yield from (tuple(alias.name.split('.')) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split('.')) if node.module else ()
            yield base
            yield from ((*base, alias.name) for alias in node.names)
        else:
            yield from imports(ast.iter_child_nodes(node), package)


def file_of(name, package):
    """Return the file of a module, or None if the name is inside a module."""
    path = package.parent.joinpath(*name)
    files = [path.with_suffix('.py'), path / '__init__.py']
    return next((file for file in files if file.is_file()), None)


def reached(folder, package=PACKAGE):
    """Map a folder's modules, and all files that they import, to their imports."""
    left, known = sorted(folder.rglob('*.py')), {}
    while left:
        file = left.pop()
        if file in known:
            continue
        inside = file.relative_to(package.parent).with_suffix('').parts
        known[file] = set(imports(ast.parse(file.read_text(encoding='utf-8')).body, inside[:-1]))
        ours = [name for name in known[file] if name[:1] == ROOT and len(name) > 1]
        for name in ours:
            for length in range(2, len(name) + 1):  # parent packages are also imported
                found = file_of(name[:length], package)
                left += [found] if found else []
    return known


def forbidden(known):
    return {
        str(file): sorted({name[0] for name in names} & FORBIDDEN)
        for file, names in known.items()
        if {name[0] for name in names if name} & FORBIDDEN
    }


def test_the_runtime_imports_no_torch():
    known = reached(PACKAGE / 'deploy' / 'runtime')
    assert forbidden(known) == {}
    assert PACKAGE / 'images' / 'files.py' in known  # so others are followed
    assert len(known) > 20


@pytest.mark.parametrize(
    'text', ['import torch', 'def f():\n    from torch.nn import Module', 'from ...values import x']
)
def test_an_import_is_found(tmp_path, text):
    package = tmp_path / 'mmesbnn'
    runtime = package / 'deploy' / 'runtime'
    runtime.mkdir(parents=True)
    (runtime / 'a.py').write_text(text)
    (package / 'values.py').write_text('import numpy\nimport torch.nn as nn\nx = 1')
    assert list(forbidden(reached(runtime, package)).values()) == [['torch']]


def test_imports_for_types_do_not_count(tmp_path):
    runtime = tmp_path / 'mmesbnn' / 'deploy' / 'runtime'
    runtime.mkdir(parents=True)
    (runtime / 'a.py').write_text('if TYPE_CHECKING:\n    import torch\n')
    assert forbidden(reached(runtime, tmp_path / 'mmesbnn')) == {}
