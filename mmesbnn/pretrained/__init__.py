"""Saving, loading and sharing of trained networks, and building of networks by name."""

from .errors import PretrainedError
from .folder import from_pretrained, save_pretrained

__all__ = ['PretrainedError', 'from_pretrained', 'save_pretrained']
