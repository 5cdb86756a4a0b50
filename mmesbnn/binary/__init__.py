"""What a binary network is: signs, weights, operators, layers, ES. Pure torch."""

from .expand_shrink import (
    DropInESConv2d,
    DropInESLinear,
    ESConv2d,
    ESLinear,
    Expansion,
    TiledBatchNorm2d,
    normalize_tiled,
    tile,
)
from .functional import binary_conv2d, binary_linear
from .layers import BinaryConv2d, BinaryLinear, LearnableShift, RPReLU, RSign
from .recompute import is_recomputing, recompute_elementwise
from .signs import (
    HardTanhSign,
    IdentitySign,
    QuadraticSign,
    build_sign,
    hard_tanh_sign,
    identity_sign,
    quadratic_sign,
    sign,
    straight_through,
)
from .weights import (
    CentredSignWeight,
    RealWeight,
    ScaledSignWeight,
    TemperatureWeight,
    build_weight_binarizer,
    centred_sign_weight,
    scaled_sign_weight,
    temperature_weight,
)

__all__ = [
    'BinaryConv2d',
    'BinaryLinear',
    'CentredSignWeight',
    'DropInESConv2d',
    'DropInESLinear',
    'ESConv2d',
    'ESLinear',
    'Expansion',
    'HardTanhSign',
    'IdentitySign',
    'LearnableShift',
    'QuadraticSign',
    'RPReLU',
    'RSign',
    'RealWeight',
    'ScaledSignWeight',
    'TemperatureWeight',
    'TiledBatchNorm2d',
    'binary_conv2d',
    'binary_linear',
    'build_sign',
    'build_weight_binarizer',
    'centred_sign_weight',
    'hard_tanh_sign',
    'identity_sign',
    'is_recomputing',
    'normalize_tiled',
    'quadratic_sign',
    'recompute_elementwise',
    'scaled_sign_weight',
    'sign',
    'straight_through',
    'temperature_weight',
    'tile',
]
