"""Training: hooks, optimizer constructors, and the loading of checkpoints."""

from . import hooks, optim
from .safe_load import allow_mmengine_checkpoints

allow_mmengine_checkpoints()

__all__ = ['allow_mmengine_checkpoints', 'hooks', 'optim']
