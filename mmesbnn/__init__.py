"""Expanding-and-shrinking binary neural networks for OpenMMLab and diffusers.

Importing the package registers its components at mmengine, and a safe reader of mmengine's
checkpoints. It needs torch and mmengine only. Without these it can still run exported
networks, see :mod:`mmesbnn.deploy`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# first, so that a signal ends a tool with one line even while the rest is imported
from . import cli  # noqa: F401
from .version import __version__

try:
    from . import datasets, diffusion, engine, evaluation, models, registry
    from .binary import binarize
except ModuleNotFoundError as error:
    if error.name not in ('torch', 'mmengine'):
        raise

if TYPE_CHECKING:
    from .pretrained import create_model, from_pretrained, list_models, push_to_hub, save_pretrained

__all__ = [
    '__version__',
    'binarize',
    'create_model',
    'datasets',
    'diffusion',
    'engine',
    'evaluation',
    'from_pretrained',
    'list_models',
    'models',
    'push_to_hub',
    'registry',
    'save_pretrained',
]

#: Names that are imported at their first use, because they import much.
_PRETRAINED = ('create_model', 'from_pretrained', 'list_models', 'push_to_hub', 'save_pretrained')


def __getattr__(name: str) -> Any:
    if name in _PRETRAINED:
        return getattr(import_module('.pretrained', __name__), name)
    if name in __all__:  # the import above failed; raise its error again
        if name == 'binarize':
            return import_module('.binary', __name__).binarize
        return import_module(f'.{name}', __name__)
    if name == 'BinaryConfig':  # imports diffusers, so it is no part of __all__
        return import_module('.diffusion', __name__).BinaryConfig
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
