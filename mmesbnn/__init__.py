"""Expanding-and-shrinking binary neural networks for OpenMMLab and diffusers.

Importing the package registers its components with mmengine and lets ``torch.load``
read mmengine's checkpoints safely. It needs torch and mmengine only.
"""

from . import engine, models
from .version import __version__

__all__ = ['__version__', 'engine', 'models']
