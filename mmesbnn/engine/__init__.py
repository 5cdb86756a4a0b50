"""Training: hooks, optimizer constructors, and the loading of checkpoints."""

from ..checkpoints import register_loaders
from . import hooks, optim
from .flop_counters import register_flop_counters

register_loaders()
register_flop_counters()

__all__ = ['hooks', 'optim']
