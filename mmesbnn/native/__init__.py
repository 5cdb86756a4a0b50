"""Binary convolutions on packed bits, in C++ behind a C interface.

Needs numpy and the compiled library, and neither torch nor OpenVINO. Without a compiler
``pip install`` goes on without the library; :func:`available` then is False.
"""

from .kernels import (
    Packed,
    PackedWeights,
    convolve,
    instruction_sets,
    pack_signs,
    pack_weights,
    use_instruction_set,
)
from .library import NativeError, available

__all__ = [
    'NativeError',
    'Packed',
    'PackedWeights',
    'available',
    'convolve',
    'instruction_sets',
    'pack_signs',
    'pack_weights',
    'use_instruction_set',
]
