"""Training: hooks, optimizer constructors, and the loading of checkpoints."""

from ..checkpoints import register_loaders
from . import hooks, optim

register_loaders()

__all__ = ['hooks', 'optim']
