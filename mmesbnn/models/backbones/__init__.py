"""Binary backbones; importing this registers them at mmengine's root registry."""

from .bnext import BNext

__all__ = ['BNext']
