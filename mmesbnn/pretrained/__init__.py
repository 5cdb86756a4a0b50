"""Saving, loading and sharing of trained networks, and building of networks by name."""

from .creating import create_model, list_models
from .errors import PretrainedError
from .loading import from_pretrained
from .saving import save_pretrained
from .sharing import push_to_hub

__all__ = [
    'PretrainedError',
    'create_model',
    'from_pretrained',
    'list_models',
    'push_to_hub',
    'save_pretrained',
]
