"""Building blocks of networks, made of single binary layers."""

from .es_conv import es_conv2d
from .float_layers import PooledProjection, Stem
from .minmax import MinMaxConv2d, MinMaxLinear
from .recoupled_conv import RecoupledConv, SqueezeExcite

__all__ = [
    'MinMaxConv2d',
    'MinMaxLinear',
    'PooledProjection',
    'RecoupledConv',
    'SqueezeExcite',
    'Stem',
    'es_conv2d',
]
