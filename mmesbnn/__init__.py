"""Expanding-and-shrinking binary neural networks for OpenMMLab and diffusers."""

from .version import __version__

__all__ = ['__version__']
