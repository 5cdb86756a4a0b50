"""Binary backbones; importing this registers them at mmengine's root registry."""

from .binary_vit import BinaryViT
from .bnext import BNext

__all__ = ['BNext', 'BinaryViT']
