"""Signs of tokens for the heads of attention."""

from __future__ import annotations

import numpy as np

from .activations import surrogate_number
from .arguments import check_clip, check_operand, check_threads, float_array, floats, raise_for
from .library import NativeError, library
from .memory import empty


def _sizes(x: np.ndarray, heads: int) -> tuple[int, int, int, int]:
    batch, tokens, channels = x.shape
    if heads < 1 or channels % heads:
        raise NativeError(f'heads={heads} must divide the {channels} channels of x')
    return batch, tokens, heads, channels // heads


def head_signs(x: np.ndarray, shift: np.ndarray, *, heads: int, threads: int = 1) -> np.ndarray:
    """Compute 1 where ``x + shift > 0``, else -1, with the heads before the tokens.

    NaN stays NaN.

    Args:
        x: float32 ``(N, L, C)``.
        shift: float32 ``(C,)``.
        heads: Number of heads, each of which has the next ``C / heads`` channels.
        threads: Number of threads. Default 1.

    Returns:
        float32 ``(N, heads, L, C / heads)``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    x = float_array('x', x, 3)
    sizes = batch, tokens, _, channels = _sizes(x, heads)
    check_operand('shift', shift, x.shape[2:])
    out = empty((batch, heads, tokens, channels))
    status = library().mmesbnn_head_signs(
        floats(x), *sizes, floats(shift), check_threads(threads), floats(out)
    )
    raise_for(status, 'head_signs')
    return out


def head_signs_gradient(
    grad: np.ndarray,
    x: np.ndarray,
    shift: np.ndarray,
    *,
    heads: int,
    surrogate: str,
    clip: float = 1.0,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gradients of :func:`head_signs` as :func:`sign_gradient` those of signs.

    Args:
        grad: Gradient of the result, float32 ``(N, heads, L, C / heads)``.
        x: float32 ``(N, L, C)``.
        shift: float32 ``(C,)``.
        heads: Number of heads.
        surrogate: One of ``SURROGATES``.
        clip: Half width of the window. Default 1.
        threads: Number of threads. Default 1.

    Returns:
        Gradients of ``x`` and ``shift``.

    Raises:
        NativeError: If sizes do not match, or an argument is out of its range.
    """
    number = surrogate_number(surrogate)
    check_clip(clip)
    x, grad = float_array('x', x, 3), float_array('grad', grad, 4)
    sizes = batch, tokens, _, channels = _sizes(x, heads)
    check_operand('grad', grad, (batch, heads, tokens, channels))
    check_operand('shift', shift, x.shape[2:])
    of_x, of_shift = empty(x.shape), np.empty_like(shift)
    status = library().mmesbnn_sign_gradient_tokens(
        *(floats(grad), floats(x), *sizes, floats(shift), number, clip, check_threads(threads)),
        *(floats(of_x), floats(of_shift)),
    )
    raise_for(status, 'head_signs_gradient')
    return of_x, of_shift
