"""Names of this package's classifiers, and their registration in mmpretrain's list of models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..optional import require

_PACKAGE = Path(__file__).resolve().parents[1]
_TASK = 'Image Classification'


def _folder() -> Path:
    """Return the folder with ``model-index.yml``, metafiles and configs.

    Raises:
        FileNotFoundError: If the package was installed without its configs.
    """
    # an installed package has mmesbnn/.mim; in a checkout the index is beside the package
    for folder in (_PACKAGE / '.mim', _PACKAGE.parent):
        if (folder / 'model-index.yml').exists():
            return folder
    raise FileNotFoundError(f'no model-index.yml in {_PACKAGE}/.mim: reinstall')


def _entries(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the models of all metafiles."""
    index = yaml.safe_load((folder / 'model-index.yml').read_text(encoding='utf-8'))
    for name in index['Import']:
        yield from yaml.safe_load((folder / name).read_text(encoding='utf-8'))['Models']


def recipes() -> dict[str, Path]:
    """Map the names of this package's classifiers to their config files.

    Raises:
        FileNotFoundError: If the package was installed without its configs.
    """
    folder = _folder()
    return {
        entry['Name']: folder / entry['Config']
        for entry in _entries(folder)
        if {result['Task'] for result in entry.get('Results') or ()} == {_TASK}
    }


def register_models() -> list[str]:
    """Add the classifiers of this package to mmpretrain's list of models.

    After the call mmpretrain's ``list_models('*bnext*')``, ``get_model('es_bnext_tiny')``
    and ``inference_model('es_bnext_tiny', image)`` find them. Names are those of the
    config files. No weights are published for them. Models for other tasks are not
    added. A second call does nothing.

    Returns:
        Names that were added.

    Raises:
        ImportError: If mmpretrain is not installed.
        FileNotFoundError: If the package was installed without its configs.
    """
    hub = require('mmpretrain', 'cls', 'register_models').apis.ModelHub
    folder, ours = _folder(), recipes()
    known = set(hub._models_dict)
    if not set(ours) & known:
        hub.register_model_index(folder / 'model-index.yml', config_prefix=folder)
        for name in set(hub._models_dict) - known - set(ours):
            del hub._models_dict[name]
    return sorted(set(hub._models_dict) - known)
