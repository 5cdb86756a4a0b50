"""Parts of binary networks: signs, weights, operators, layers, ES. Needs torch only."""

from .attention import (
    BinaryFeedForward,
    BinaryMultiheadAttention,
    ResidualBinaryLinear,
    elastic_binarize,
)
from .binarize import BinarizedLayer, BinarizeReport, binarize
from .es_layers import ESConv2d, ESLinear
from .expansion import Expansion, tile
from .forms import InputForm, WeightForm
from .functional import binary_conv2d, binary_linear, binary_matmul
from .layers import (
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    LearnableShift,
    RPReLU,
    RSign,
    binary_layers,
)
from .native_mode import use_native
from .norms_behind import start_copies
from .options import BinaryOptions
from .recompute import is_recomputing, recompute_elementwise
from .shrunk import ShrunkConv2d, ShrunkLinear
from .signs import (
    HardTanhSign,
    IdentitySign,
    QuadraticSign,
    Sign,
    build_sign,
    hard_tanh_sign,
    identity_sign,
    quadratic_sign,
    sign,
    straight_through,
)
from .tiled_norm import TiledBatchNorm2d, normalize_tiled, redraw_signs
from .weights import (
    CentredSignWeight,
    FixedWeight,
    RealWeight,
    ScaledSignWeight,
    TemperatureWeight,
    WeightBinarizer,
    build_weight_binarizer,
    centred_sign_weight,
    scaled_sign_weight,
    temperature_weight,
)

__all__ = [
    'BinarizeReport',
    'BinarizedLayer',
    'BinaryConv2d',
    'BinaryFeedForward',
    'BinaryLayer',
    'BinaryLinear',
    'BinaryMultiheadAttention',
    'BinaryOptions',
    'CentredSignWeight',
    'ESConv2d',
    'ESLinear',
    'Expansion',
    'FixedWeight',
    'HardTanhSign',
    'IdentitySign',
    'InputForm',
    'LearnableShift',
    'QuadraticSign',
    'RPReLU',
    'RSign',
    'RealWeight',
    'ResidualBinaryLinear',
    'ScaledSignWeight',
    'ShrunkConv2d',
    'ShrunkLinear',
    'Sign',
    'TemperatureWeight',
    'TiledBatchNorm2d',
    'WeightBinarizer',
    'WeightForm',
    'binarize',
    'binary_conv2d',
    'binary_layers',
    'binary_linear',
    'binary_matmul',
    'build_sign',
    'build_weight_binarizer',
    'centred_sign_weight',
    'elastic_binarize',
    'hard_tanh_sign',
    'identity_sign',
    'is_recomputing',
    'normalize_tiled',
    'quadratic_sign',
    'recompute_elementwise',
    'redraw_signs',
    'scaled_sign_weight',
    'sign',
    'start_copies',
    'straight_through',
    'temperature_weight',
    'tile',
    'use_native',
]
