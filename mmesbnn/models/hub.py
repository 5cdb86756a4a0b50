"""Registration of this package's models in mmpretrain's list of models."""

from __future__ import annotations

from pathlib import Path

from ..optional import require

_PACKAGE = Path(__file__).resolve().parents[1]


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
    # an installed package has mmesbnn/.mim; in a checkout the index is beside the package
    for folder in (_PACKAGE / '.mim', _PACKAGE.parent):
        index = folder / 'model-index.yml'
        if index.exists():
            break
    else:
        raise FileNotFoundError(f'no model-index.yml in {_PACKAGE}/.mim: reinstall')
    known = set(hub._models_dict)
    if 'es_bnext_tiny' not in known:
        hub.register_model_index(index, config_prefix=folder)
        for name in set(hub._models_dict) - known:
            tasks = {result.task for result in hub._models_dict[name].results or ()}
            if tasks != {'Image Classification'}:
                del hub._models_dict[name]
    return sorted(set(hub._models_dict) - known)
