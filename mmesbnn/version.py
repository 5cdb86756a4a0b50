"""Version of the package, in its own file so that ``setup.py`` need not import torch."""

__version__ = '0.1.0'
