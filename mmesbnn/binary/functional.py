"""Binary convolutions, linear layers and products of two activations.

The operands are the signed input and the *effective* weight (see ``weights.py``). The
operands of ``binary_matmul`` are two activations (see ``attention.py``).

Sums of +-1 products are integers. They are exact in float64, in float32, and in bfloat16
multiplication with float32 accumulation. In float32 and float64, sums are computed first and
multiplied with the scales of the weight then, as on packed bits, so a result is rounded once.
GPUs sum scaled signs unless the code is compiled. Under autocast the *result* is rounded to the
low dtype. Its relative error is up to 2^-8 in bfloat16 and 2^-11 in float16; sums up to 256 and
2048 are exact.

A call of a registered operator takes 0.1 ms more than one of torch's, so torch's operators run
directly where no mode can see which operator runs. ``torch.compile`` also gets torch's operators,
because it cannot choose the memory layout of a registered one or fuse it with its neighbours.

Custom operators have no formulas for ``torch.func`` (``grad``, ``vmap``, ``jvp``) and
forward-mode differentiation. Inside these, torch's own operators compute the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from ..native import Packed, PackedWeights
from .expansion import is_channels_last
from .native_mode import (
    POINTWISE,
    bits_to_save,
    convolve_packed,
    is_native,
    map_of_rows,
    pack_operands,
    packed_gradients,
    rows_of_map,
    saved_bits,
)
from .once_differentiable import once_differentiable
from .operators import CONV2D, LINEAR, MATMUL, Operator
from .signs import compiles_for_speed
from .tracing import is_seen, is_transformed

PAD_VALUES = (-1, 0, 1)

IntPair = int | Sequence[int]


class _Direct(torch.autograd.Function):
    """Step of autograd with the formulas of a registered operator."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, settings: tuple[Any, ...], operator: Operator
    ) -> Tensor:
        ctx.operator = operator
        operator.save(ctx, (a, b, *settings), None)
        return operator.compute(a, b, *settings)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_a, grad_b, *_ = ctx.operator.backward(ctx, grad)
        return grad_a, grad_b, None, None


class _OnBits(torch.autograd.Function):
    """Convolution of packed operands, which stores both as bits."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        packed: tuple[Packed, PackedWeights],
        settings: tuple[Any, ...],
    ) -> Tensor:
        signs, kernels = packed
        stride, padding, dilation, _, pad_value = ctx.settings = settings
        ctx.channels, ctx.kernel_size = signs.channels, kernels.kernel_size
        ctx.save_for_backward(*bits_to_save(signs, kernels))
        last = is_channels_last(x)
        return convolve_packed(
            signs, kernels, stride, padding, dilation, pad_value, channels_last=last
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        packed = saved_bits(ctx.saved_tensors, ctx.channels, ctx.kernel_size)
        found = packed_gradients(grad, *packed, ctx.settings, ctx.needs_input_grad[:2])
        return *found, None, None


def _run(
    operator: Operator, a: Tensor, b: Tensor, *settings: Any, scaled: bool | None = None
) -> Tensor:
    if is_transformed() or (compiles_for_speed() and not is_native()):
        compute = operator.unscaled if scaled is False else operator.compute
        return compute(a, b, *settings)
    if is_seen(a, b):
        return operator.registered(a, b, *settings)
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        y = _run_on_bits(operator, a, b, settings)
        if y is not None:
            return y
        return _Direct.apply(a, b, settings, operator)
    return operator.compute(a, b, *settings)


def _run_on_bits(
    operator: Operator, x: Tensor, weight: Tensor, settings: tuple[Any, ...]
) -> Tensor | None:
    """Run a step of training on packed operands; return None where torch's operator must run."""
    if operator is MATMUL or not is_native():
        return None
    if operator is LINEAR:
        y = _run_on_bits(CONV2D, map_of_rows(x), weight[:, :, None, None], POINTWISE)
        return None if y is None else rows_of_map(y, x.shape[:-1])
    with torch.no_grad():
        packed = pack_operands(x, weight, settings[3])
    return None if packed is None else _OnBits.apply(x, weight, packed, settings)


def autocast_operands(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Cast as torch casts a convolution's operands under autocast (float64 stays)."""
    kind = x.device.type
    if x.is_meta or x.dtype == torch.float64:  # torch raises when asked about 'meta'
        return x, weight
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        return x.to(dtype), weight.to(dtype)
    return x, weight


def check_pad_value(pad_value: int) -> int:
    """Return ``pad_value`` if it is -1, 0 or 1, else raise a ``ValueError``."""
    if pad_value not in PAD_VALUES:
        raise ValueError(f'pad_value={pad_value!r} must be one of {PAD_VALUES}')
    return pad_value


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    pad_value: int = 0,
    scaled: bool | None = None,
) -> Tensor:
    """Convolve a signed input with an effective weight.

    ``y = conv2d(pad(x, padding, pad_value), weight)``. Gradients with respect to both
    operands are those of ``torch.nn.functional.conv2d``. Surrogate gradients belong to
    the sign and to the weight binarizer, not to this operator.

    The result is that of exact sums of signs, see the top of this module.

    Args:
        x: Signed input ``(N, C_i, H, W)``.
        weight: Effective weight ``(C_o, C_i / groups, k_h, k_w)``.
        stride: Stride in pixels, an int or (vertical, horizontal). Default 1.
        padding: Pixels added on each side, an int or a pair. Default 0.
        dilation: Distance of the kernel's taps in pixels, an int or a pair. Default 1.
        groups: Number of groups. Default 1.
        pad_value: Value of the padded pixels: 0 (they add nothing, as in BNext and
            ReActNet), -1 (BiDet) or 1. Default 0.
        scaled: Whether the weight has scales, as that of :class:`WeightForm`. False saves
            compiled code the search for them. Default None.

    Returns:
        Tensor ``(N, C_o, H', W')``.

    Raises:
        ValueError: If ``pad_value`` is not one of -1, 0, 1.
    """
    check_pad_value(pad_value)
    x, weight = autocast_operands(x, weight)
    pairs = _pair(stride), _pair(padding), _pair(dilation)
    return _run(CONV2D, x, weight, *pairs, groups, float(pad_value), scaled=scaled)


def binary_linear(x: Tensor, weight: Tensor, scaled: bool | None = None) -> Tensor:
    """Compute ``x @ weight.T`` of a signed input and an effective weight.

    Args:
        x: Signed input ``(..., C_i)``.
        weight: Effective weight ``(C_o, C_i)``.
        scaled: Whether the weight has scales, as that of :class:`WeightForm`. False saves
            compiled code the search for them. Default None.

    Returns:
        Tensor ``(..., C_o)``.
    """
    x, weight = autocast_operands(x, weight)
    return _run(LINEAR, x, weight, scaled=scaled)


def binary_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a @ b`` of two binary activations, matrix by matrix.

    Args:
        a: ``(..., L, K)``. Its entries are ``-s`` and ``s``, or ``0`` and ``s``, for one
            number ``s``.
        b: ``(..., K, M)`` with the leading axes of ``a``; entries as those of ``a``.

    Returns:
        Tensor ``(..., L, M)``.

    Raises:
        ValueError: If the shapes do not match; nothing is broadcast.
    """
    if min(a.dim(), b.dim()) < 2 or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        raise ValueError(f'a is {tuple(a.shape)}, b is {tuple(b.shape)}: they cannot be multiplied')
    a, b = autocast_operands(a, b)
    return _run(MATMUL, a, b)
