"""Pages of the API reference: the public names of the package, by subject."""

from __future__ import annotations

import ast
from pathlib import Path

#: Title and modules of each page.
PAGES = {
    'layers': ('Layers', ('binary', 'registry')),
    'networks': (
        'Networks',
        (
            'pretrained',
            'models',
            'models.backbones',
            'models.classifiers',
            'models.heads',
            'models.layers',
            'models.losses',
            'models.restorers',
        ),
    ),
    'training': ('Training', ('engine.hooks', 'engine.optim')),
    'analysis': ('Analysis', ('analysis',)),
    'deployment': ('Deployment', ('deploy', 'native')),
    'diffusion': ('Diffusion', ('diffusion',)),
    'data': ('Data and metrics', ('datasets', 'evaluation')),
    'checkpoints': ('Checkpoints', ('checkpoints', 'conversion')),
}
#: Dicts of modules that import their names at the first use, with the module of each name.
LAZY = ('_MODULES', '_LAZY')


def api_pages(root: Path) -> dict[str, str]:
    """Return the Markdown of the API pages by their names.

    Args:
        root: Folder of the repository.
    """
    return {
        name: f'# {title}\n\n' + '\n'.join(_module(root, module) for module in modules)
        for name, (title, modules) in PAGES.items()
    }


def _module(root: Path, module: str) -> str:
    path = root.joinpath('mmesbnn', *module.split('.'))
    file = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
    tree = ast.parse(file.read_text(encoding='utf-8'))
    summary = (ast.get_docstring(tree) or '').partition('\n\n')[0]
    entries = [f'::: mmesbnn.{module}.{name}\n' for name in public_names(tree)]
    return '\n'.join([f'## mmesbnn.{module}\n', summary + '\n', *entries])


def public_names(tree: ast.Module) -> list[str]:
    """List the names that a module offers; lazy ones with the module that has them.

    Names of submodules are left out.
    """
    values = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    defined = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    lazy = {
        name: f'{module}.{name}'
        for key in LAZY
        if key in values
        for name, module in ast.literal_eval(values[key]).items()
    }
    listed = values.get('__all__')
    names = [
        node.value
        for node in (listed.elts if isinstance(listed, ast.List) else ())
        if isinstance(node, ast.Constant)
    ]
    own = [name for name in names if name in imported | defined and name not in lazy]
    return own + sorted(lazy.values(), key=lambda path: path.rpartition('.')[2].lower())
