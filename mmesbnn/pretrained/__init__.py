"""Saving, loading and sharing of trained networks, and building of networks by name."""

from .creating import create_model, list_models
from .errors import PretrainedError
from .folder import from_pretrained, save_pretrained

__all__ = ['PretrainedError', 'create_model', 'from_pretrained', 'list_models', 'save_pretrained']
