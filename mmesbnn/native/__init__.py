"""Binary convolutions on packed bits, and whole networks, in C++ with a C interface.

The package needs numpy and the compiled library, but neither torch nor OpenVINO. Without a
compiler ``pip install`` skips the library, :func:`available` returns False, and
:func:`problem` gives the reason.
"""

from .engine import Engine
from .gradients import input_gradient, weight_gradient
from .kernels import (
    Packed,
    PackedWeights,
    convolve,
    instruction_sets,
    pack_signs,
    pack_weights,
    use_instruction_set,
)
from .library import NativeError, available, problem

__all__ = [
    'Engine',
    'NativeError',
    'Packed',
    'PackedWeights',
    'available',
    'convolve',
    'input_gradient',
    'instruction_sets',
    'pack_signs',
    'pack_weights',
    'problem',
    'use_instruction_set',
    'weight_gradient',
]
