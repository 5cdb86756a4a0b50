"""Building blocks of networks, above single binary layers."""

from .minmax import MinMaxConv2d, MinMaxLinear
from .recoupled_conv import PooledProjection, RecoupledConv, SqueezeExcite

__all__ = [
    'MinMaxConv2d',
    'MinMaxLinear',
    'PooledProjection',
    'RecoupledConv',
    'SqueezeExcite',
]
