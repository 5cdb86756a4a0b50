"""Binary convolutions on packed bits, and whole networks, in C++ with a C interface.

The package needs numpy and the compiled library, but neither torch nor OpenVINO. Without a
compiler ``pip install`` skips the library, :func:`available` returns False, and
:func:`problem` gives the reason.
"""

from .engine import Engine
from .kernels import (
    Packed,
    PackedWeights,
    convolve,
    instruction_sets,
    pack_signs,
    pack_weights,
    unpack_signs,
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
    'instruction_sets',
    'pack_signs',
    'pack_weights',
    'problem',
    'unpack_signs',
    'use_instruction_set',
]
