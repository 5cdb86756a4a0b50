"""Components for OpenMMLab, registered at mmengine's root registries."""

from mmengine.registry import MODELS

from ..binary import BinaryConv2d, BinaryLinear, BinaryMultiheadAttention, ESLinear
from . import backbones, classifiers, heads, layers, losses, necks, restorers, task_modules
from .hub import register_models

# For configs such as conv_cfg=dict(type='ESConv2d', tau=2). They are registered here,
# because `binary` imports nothing but torch.
MODELS.register_module(name='BinaryConv2d', module=BinaryConv2d)
MODELS.register_module(name='BinaryLinear', module=BinaryLinear)
MODELS.register_module(name='BinaryMultiheadAttention', module=BinaryMultiheadAttention)
MODELS.register_module(name='ESConv2d', module=layers.es_conv2d)
MODELS.register_module(name='ESLinear', module=ESLinear)

__all__ = [
    'backbones',
    'classifiers',
    'heads',
    'layers',
    'losses',
    'necks',
    'register_models',
    'restorers',
    'task_modules',
]
