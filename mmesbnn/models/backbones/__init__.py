"""Binary backbones; importing this registers them at mmengine's root registry."""

from .binary_vit import BinaryViT
from .bnext import BNext
from .reactnet import ReActNet

__all__ = ['BNext', 'BinaryViT', 'ReActNet']
