"""Binary convolutions on packed bits, and whole networks, in C++ with a C interface.

The package needs numpy and the compiled library, but neither torch nor OpenVINO. Without a
compiler ``pip install`` skips the library, :func:`available` returns False, and
:func:`problem` gives the reason.
"""

from .activations import elastic_gradients, elastic_values, prelu_gradients, sign_gradient
from .cross import CrossGradients, add_cross, cross_gradients
from .engine import Engine
from .gradients import input_gradient, latent_gradient, weight_gradient
from .heads import head_signs, head_signs_gradient
from .kernels import (
    convolve,
    convolve_sums,
    instruction_sets,
    pack_signs,
    pack_weights,
    scale_sums,
    use_instruction_set,
)
from .library import NativeError, available, problem
from .memory import release_memory
from .norm_operands import Normalized, NormGradients, NormOperands
from .norms import normalize, normalize_gradients
from .packed import Packed, PackedWeights
from .pooling import (
    average_activated,
    average_activated_gradients,
    average_neighbours,
    average_neighbours_gradient,
    average_pool,
    average_pool_gradient,
    max_pool,
    max_pool_gradient,
)

__all__ = [
    'CrossGradients',
    'Engine',
    'NativeError',
    'NormGradients',
    'NormOperands',
    'Normalized',
    'Packed',
    'PackedWeights',
    'add_cross',
    'available',
    'average_activated',
    'average_activated_gradients',
    'average_neighbours',
    'average_neighbours_gradient',
    'average_pool',
    'average_pool_gradient',
    'convolve',
    'convolve_sums',
    'cross_gradients',
    'elastic_gradients',
    'elastic_values',
    'head_signs',
    'head_signs_gradient',
    'input_gradient',
    'instruction_sets',
    'latent_gradient',
    'max_pool',
    'max_pool_gradient',
    'normalize',
    'normalize_gradients',
    'pack_signs',
    'pack_weights',
    'prelu_gradients',
    'problem',
    'release_memory',
    'scale_sums',
    'sign_gradient',
    'use_instruction_set',
    'weight_gradient',
]
