"""Parts of binary networks: signs, weights, operators, layers, ES. Needs torch only."""

from .attention import BinaryMultiheadAttention
from .binarize import binarize
from .binarize_report import BinarizedLayer, BinarizeReport
from .elastic import elastic_binarize
from .es_layers import ESConv2d, ESLinear
from .expansion import Expansion, tile
from .feed_forward import BinaryFeedForward
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
from .levels import DoReFa, Heaviside, dorefa, heaviside
from .native_mode import use_native
from .norms_behind import start_copies
from .options import BinaryOptions
from .progress import Scheduled
from .recompute import is_recomputing, recompute_elementwise
from .residual_linear import ResidualBinaryLinear
from .scaled_weights import (
    LearnedScaleWeight,
    MagnitudeAwareWeight,
    RankOneScale,
    SignWeight,
    magnitude_aware_weight,
    sign_weight,
)
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
from .smooth_signs import (
    EDESign,
    FDASign,
    ReSTESign,
    SwishSign,
    ede_sign,
    fda_sign,
    reste_sign,
    swish_sign,
)
from .standardized import BalancedWeight, ReCUWeight, balanced_weight, recu_weight
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
    'BalancedWeight',
    'BinarizeReport',
    'BinarizedLayer',
    'BinaryConv2d',
    'BinaryFeedForward',
    'BinaryLayer',
    'BinaryLinear',
    'BinaryMultiheadAttention',
    'BinaryOptions',
    'CentredSignWeight',
    'DoReFa',
    'EDESign',
    'ESConv2d',
    'ESLinear',
    'Expansion',
    'FDASign',
    'FixedWeight',
    'HardTanhSign',
    'Heaviside',
    'IdentitySign',
    'InputForm',
    'LearnableShift',
    'LearnedScaleWeight',
    'MagnitudeAwareWeight',
    'QuadraticSign',
    'RPReLU',
    'RSign',
    'RankOneScale',
    'ReCUWeight',
    'ReSTESign',
    'RealWeight',
    'ResidualBinaryLinear',
    'ScaledSignWeight',
    'Scheduled',
    'ShrunkConv2d',
    'ShrunkLinear',
    'Sign',
    'SignWeight',
    'SwishSign',
    'TemperatureWeight',
    'TiledBatchNorm2d',
    'WeightBinarizer',
    'WeightForm',
    'balanced_weight',
    'binarize',
    'binary_conv2d',
    'binary_layers',
    'binary_linear',
    'binary_matmul',
    'build_sign',
    'build_weight_binarizer',
    'centred_sign_weight',
    'dorefa',
    'ede_sign',
    'elastic_binarize',
    'fda_sign',
    'hard_tanh_sign',
    'heaviside',
    'identity_sign',
    'is_recomputing',
    'magnitude_aware_weight',
    'normalize_tiled',
    'quadratic_sign',
    'recompute_elementwise',
    'recu_weight',
    'redraw_signs',
    'reste_sign',
    'scaled_sign_weight',
    'sign',
    'sign_weight',
    'start_copies',
    'straight_through',
    'swish_sign',
    'temperature_weight',
    'tile',
    'use_native',
]
