"""Binary backbones; importing this registers them at mmengine's root registry."""

from .bidet_resnet import BiDetResNet, BiDetResStage
from .bidet_vgg import BiDetVGG
from .binary_transformer import binary_transformer
from .binary_vit import BinaryViT
from .bnext import BNext
from .reactnet import ReActNet

__all__ = [
    'BNext',
    'BiDetResNet',
    'BiDetResStage',
    'BiDetVGG',
    'BinaryViT',
    'ReActNet',
    'binary_transformer',
]
