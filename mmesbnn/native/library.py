"""Loader of the compiled kernels."""

from __future__ import annotations

import ctypes
import functools
from ctypes import (
    POINTER,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int16,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint64,
    c_void_p,
)
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from ..errors import MmesbnnError

_FLOATS, _WORDS, _INTEGERS = POINTER(c_float), POINTER(c_uint64), POINTER(c_int64)
_BYTES, _SUMS = POINTER(c_uint8), POINTER(c_int16)
_SIGNATURES = {
    'mmesbnn_instruction_sets': (c_char_p, c_size_t),
    'mmesbnn_use': (c_char_p,),
    'mmesbnn_share_threads': (c_void_p,),
    'mmesbnn_pack_signs': (
        _FLOATS,
        c_int64,
        c_int64,
        c_int64,
        c_int64,
        c_int,
        _FLOATS,
        c_int,
        c_int,
        _WORDS,
        _FLOATS,
    ),
    'mmesbnn_pack_weights': (_FLOATS, *[c_int64] * 4, _FLOATS, c_int, c_int, _WORDS, _FLOATS),
    'mmesbnn_convolve': (
        _WORDS,
        c_int64,
        c_int64,
        c_int64,
        c_int64,
        c_int64,
        _WORDS,
        c_int64,
        POINTER(c_int32),
        c_int,
        _FLOATS,
        c_int64,
        c_int64,
        c_int,
        c_int,
        _FLOATS,
        _SUMS,
    ),
    'mmesbnn_scale_sums': (_SUMS, *[c_int64] * 3, _FLOATS, c_int, _FLOATS),
    'mmesbnn_input_gradient': (
        _FLOATS,
        *[c_int64] * 5,
        _WORDS,
        c_int64,
        POINTER(c_int32),
        _FLOATS,
        c_int64,
        c_int64,
        c_int,
        c_int,
        _FLOATS,
    ),
    'mmesbnn_weight_gradient': (
        _FLOATS,
        _WORDS,
        *[c_int64] * 6,
        POINTER(c_int32),
        c_int,
        c_int64,
        c_int64,
        c_int,
        c_int,
        _FLOATS,
    ),
    'mmesbnn_normalize': (
        _FLOATS,
        _SUMS,
        _FLOATS,
        _FLOATS,
        *[c_int64] * 5,
        _FLOATS,
        _FLOATS,
        c_int,
        *[_FLOATS] * 4,
        c_double,
        c_int,
        c_int,
        *[_FLOATS] * 4,
    ),
    'mmesbnn_normalize_gradients': (
        _FLOATS,
        _SUMS,
        _FLOATS,
        _FLOATS,
        *[c_int64] * 5,
        _FLOATS,
        _FLOATS,
        c_int,
        *[_FLOATS] * 6,
        c_int,
        *[_FLOATS] * 7,
    ),
    'mmesbnn_sign_gradient': (
        _FLOATS,
        _FLOATS,
        _FLOATS,
        _FLOATS,
        *[c_int64] * 3,
        _FLOATS,
        c_int,
        c_float,
        c_int,
        _FLOATS,
        _FLOATS,
    ),
    'mmesbnn_normalize_tokens': (
        _FLOATS,
        _SUMS,
        _FLOATS,
        *[c_int64] * 3,
        _FLOATS,
        c_int64,
        *[_FLOATS] * 4,
        c_double,
        c_int,
        c_int,
        _FLOATS,
        _FLOATS,
    ),
    'mmesbnn_normalize_tokens_gradients': (
        _FLOATS,
        _SUMS,
        _FLOATS,
        *[c_int64] * 3,
        _FLOATS,
        c_int64,
        *[_FLOATS] * 5,
        c_int,
        *[_FLOATS] * 7,
    ),
    'mmesbnn_latent_gradient': (*[_FLOATS] * 3, c_int64, c_int64, c_float, *[c_int] * 2, _FLOATS),
    'mmesbnn_sign_gradient_tokens': (
        _FLOATS,
        _FLOATS,
        *[c_int64] * 4,
        _FLOATS,
        c_int,
        c_float,
        c_int,
        _FLOATS,
        _FLOATS,
    ),
    'mmesbnn_add_cross': (_FLOATS, _FLOATS, *[c_int64] * 5, _FLOATS, _FLOATS, c_int, _FLOATS),
    'mmesbnn_cross_gradients': (_FLOATS, _FLOATS, *[c_int64] * 5, _FLOATS, c_int, *[_FLOATS] * 3),
    'mmesbnn_prelu_gradients': (_FLOATS, _FLOATS, *[c_int64] * 3, _FLOATS, c_int, _FLOATS, _FLOATS),
    'mmesbnn_head_signs': (_FLOATS, *[c_int64] * 4, _FLOATS, c_int, _FLOATS),
    'mmesbnn_elastic_values': (_FLOATS, c_int64, c_float, c_int, _FLOATS),
    'mmesbnn_elastic_gradients': (_FLOATS, _FLOATS, c_int64, c_float, c_int, _FLOATS, _FLOATS),
    'mmesbnn_average_pool': (_FLOATS, *[c_int64] * 3, c_int, _FLOATS),
    'mmesbnn_average_activated': (_FLOATS, *[c_int64] * 4, _FLOATS, c_int, _FLOATS),
    'mmesbnn_average_activated_gradients': (
        _FLOATS,
        _FLOATS,
        *[c_int64] * 4,
        _FLOATS,
        c_int,
        _FLOATS,
        _FLOATS,
    ),
    'mmesbnn_average_pool_gradient': (_FLOATS, *[c_int64] * 3, c_int, _FLOATS),
    'mmesbnn_average_neighbours': (_FLOATS, *[c_int64] * 2, c_int, _FLOATS),
    'mmesbnn_average_neighbours_gradient': (_FLOATS, *[c_int64] * 2, c_int, _FLOATS),
    'mmesbnn_max_pool': (_FLOATS, *[c_int64] * 8, c_int, _FLOATS, _BYTES),
    'mmesbnn_max_pool_gradient': (_FLOATS, _BYTES, *[c_int64] * 8, c_int, _FLOATS),
    'mmesbnn_program_new': (_INTEGERS, c_int64, c_void_p, c_int64, _INTEGERS, POINTER(c_void_p)),
    'mmesbnn_program_free': (c_void_p,),
    'mmesbnn_program_sizes': (c_void_p, _INTEGERS),
    'mmesbnn_program_shapes': (c_void_p, _INTEGERS),
    'mmesbnn_program_run': (
        c_void_p,
        c_void_p,
        c_int64,
        _FLOATS,
        c_int64,
        POINTER(c_void_p),
        c_int,
        POINTER(c_double),
    ),
}


class NativeError(MmesbnnError):
    """Error about native kernels that cannot be used; the message says why."""


def _path() -> Path | None:
    folder = Path(__file__).parent
    # the shortest suffix first; the others are of builds by earlier releases
    paths = (folder / f'_kernels{suffix}' for suffix in reversed(EXTENSION_SUFFIXES))
    return next((path for path in paths if path.is_file()), None)


@functools.cache
def _load() -> ctypes.CDLL | str:
    """Return the library, or the reason why it cannot be loaded."""
    path = _path()
    if path is None:
        return 'they were not compiled: install mmesbnn where a C++ compiler is'
    try:
        library = ctypes.CDLL(str(path))
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, c_int
    except (OSError, AttributeError) as error:
        return f'{path} cannot be loaded ({error})'
    return library


def available() -> bool:
    """Return True if the compiled kernels can be used."""
    return problem() is None


def problem() -> str | None:
    """Return the reason why the compiled kernels cannot be used, or None if they can."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def library() -> ctypes.CDLL:
    """Return the compiled kernels.

    Raises:
        NativeError: If they cannot be used.
    """
    loaded = _load()
    if isinstance(loaded, str):
        raise NativeError(f'the native kernels cannot be used: {loaded}')
    return loaded
