"""Operators of all binary arithmetic.

They are registered with ``torch.library`` under the names ``mmesbnn::binary_conv2d``,
``mmesbnn::binary_linear`` and ``mmesbnn::binary_matmul``. Tools that analyse a network
(OPs counter, binary check, packer, exporter, selective recomputation) recognise binary
arithmetic by these operators and need no knowledge of the model.

The operands are the signed input and the *effective* weight (see ``weights.py``). The
operands of ``binary_matmul`` are two activations (see ``attention.py``).

Sums of +-1 products are integers. They are exact in float64, in float32, and in bfloat16
multiplication with float32 accumulation. Under autocast the *result* is rounded to the
low dtype. Its relative error is up to 2^-8 in bfloat16 and 2^-11 in float16; sums up to
256 and 2048 are exact.

Custom operators have no formulas for ``torch.func`` (``grad``, ``vmap``, ``jvp``) and
forward-mode differentiation. Inside these, torch's own operators compute the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from .native_mode import native_conv2d, native_linear
from .signs import is_transformed

PAD_VALUES = (-1, 0, 1)

IntPair = int | Sequence[int]


def _pad(x: Tensor, padding: Sequence[int], value: float) -> Tensor:
    vertical, horizontal = padding
    return F.pad(x, (horizontal, horizontal, vertical, vertical), value=value)


def plain_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: float,
) -> Tensor:
    """Compute the convolution on packed bits if this is enabled and exact, else in floats."""
    y = native_conv2d(x, weight, stride, padding, dilation, groups, pad_value)
    if y is not None:
        return y
    if pad_value:
        x, padding = _pad(x, padding, pad_value), (0, 0)
    return F.conv2d(x, weight, None, stride, padding, dilation, groups)


_binary_conv2d = torch.library.custom_op('mmesbnn::binary_conv2d', plain_conv2d, mutates_args=())


@_binary_conv2d.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: float,
) -> Tensor:
    return F.conv2d(x, weight, None, stride, padding, dilation, groups)


def _save_for_conv(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, *ctx.settings = inputs
    ctx.save_for_backward(x, weight)


def _conv_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    stride, padding, dilation, groups, pad_value = ctx.settings
    height, width = x.shape[-2:]
    top, left = (0, 0)
    if pad_value:
        (top, left), x, padding = padding, _pad(x, padding, pad_value), (0, 0)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        stride,
        padding,
        dilation,
        False,
        (0, 0),
        groups,
        (ctx.needs_input_grad[0], ctx.needs_input_grad[1], False),
    )
    if pad_value and grad_x is not None:
        grad_x = grad_x[..., top : top + height, left : left + width]
    return grad_x, grad_weight, None, None, None, None, None


_binary_conv2d.register_autograd(_conv_backward, setup_context=_save_for_conv)


@torch.library.custom_op('mmesbnn::binary_linear', mutates_args=())
def _binary_linear(x: Tensor, weight: Tensor) -> Tensor:
    y = native_linear(x, weight)
    return F.linear(x, weight) if y is None else y


@_binary_linear.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


def _save_for_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    grad_x = grad @ weight if ctx.needs_input_grad[0] else None
    grad_weight = None
    if ctx.needs_input_grad[1]:
        rows, inputs = grad.shape[-1], x.shape[-1]
        grad_weight = grad.reshape(-1, rows).t() @ x.reshape(-1, inputs)
    return grad_x, grad_weight


_binary_linear.register_autograd(_linear_backward, setup_context=_save_for_linear)


@torch.library.custom_op('mmesbnn::binary_matmul', mutates_args=())
def _binary_matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


@_binary_matmul.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def _matmul_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    a, b = ctx.saved_tensors
    grad_a = grad @ b.mT if ctx.needs_input_grad[0] else None
    grad_b = a.mT @ grad if ctx.needs_input_grad[1] else None
    return grad_a, grad_b


_binary_matmul.register_autograd(_matmul_backward, setup_context=_save_for_linear)

#: The overloads by which dispatch modes and graph passes recognise binary arithmetic.
BINARY_CONV2D = torch.ops.mmesbnn.binary_conv2d.default
BINARY_LINEAR = torch.ops.mmesbnn.binary_linear.default
BINARY_MATMUL = torch.ops.mmesbnn.binary_matmul.default


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
) -> Tensor:
    """Convolve a signed input with an effective weight.

    ``y = conv2d(pad(x, padding, pad_value), weight)``. Gradients with respect to both
    operands are those of ``torch.nn.functional.conv2d``. Surrogate gradients belong to
    the sign and to the weight binarizer, not to this operator.

    Args:
        x: Signed input ``(N, C_i, H, W)``.
        weight: Effective weight ``(C_o, C_i / groups, k_h, k_w)``.
        stride: Stride in pixels, an int or (vertical, horizontal). Default 1.
        padding: Pixels added on each side, an int or a pair. Default 0.
        dilation: Distance of the kernel's taps in pixels, an int or a pair. Default 1.
        groups: Number of groups. Default 1.
        pad_value: Value of the padded pixels: 0 (they add nothing, as in BNext and
            ReActNet), -1 (BiDet) or 1. Default 0.

    Returns:
        Tensor ``(N, C_o, H', W')``.

    Raises:
        ValueError: If ``pad_value`` is not one of -1, 0, 1.
    """
    check_pad_value(pad_value)
    x, weight = autocast_operands(x, weight)
    compute = plain_conv2d if is_transformed() else _binary_conv2d
    return compute(
        x, weight, _pair(stride), _pair(padding), _pair(dilation), groups, float(pad_value)
    )


def binary_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Compute ``x @ weight.T`` of a signed input and an effective weight.

    Args:
        x: Signed input ``(..., C_i)``.
        weight: Effective weight ``(C_o, C_i)``.

    Returns:
        Tensor ``(..., C_o)``.
    """
    x, weight = autocast_operands(x, weight)
    return F.linear(x, weight) if is_transformed() else _binary_linear(x, weight)


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
    if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        raise ValueError(f'a is {tuple(a.shape)}, b is {tuple(b.shape)}: they cannot be multiplied')
    a, b = autocast_operands(a, b)
    return a @ b if is_transformed() else _binary_matmul(a, b)
