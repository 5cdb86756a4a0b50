"""Operators of all binary arithmetic, registered with ``torch.library``.

Their names are ``mmesbnn::binary_conv2d``, ``mmesbnn::binary_linear`` and
``mmesbnn::binary_matmul``. Tools that analyse a network (OPs counter, binary check, packer,
exporter, selective recomputation) recognise binary arithmetic by these operators and need no
knowledge of the model. Networks call them through :mod:`mmesbnn.binary.functional`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .native_mode import native_conv2d, native_linear
from .strided_gradient import convolution_gradients
from .tracing import is_transformed
from .weight_values import signs_and_scales

#: Types in which sums of signs are exact.
_WIDE = (torch.float32, torch.float64)


def _pad(x: Tensor, padding: Sequence[int], value: float) -> Tensor:
    vertical, horizontal = padding
    return F.pad(x, (horizontal, horizontal, vertical, vertical), value=value)


def _parts(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return signs and scales of a weight, or the weight and None where it is multiplied whole.

    Sums of scaled signs are rounded. Where signs cancel they are nearly 0, and a threshold of 0
    makes random signs of them. Sums of signs alone are exact, as those of packed bits.
    """
    traced = torch.compiler.is_compiling() or is_transformed()
    exact = weight.dtype in _WIDE and (traced or weight.is_cpu)  # a look at a GPU waits for it
    return (signs_and_scales(weight, looks=not traced) if exact else None) or (weight, None)


def _float_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: float,
) -> Tensor:
    if pad_value:
        x, padding = _pad(x, padding, pad_value), (0, 0)
    return F.conv2d(x, weight, None, stride, padding, dilation, groups)


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
    signs, scales = _parts(weight)
    y = _float_conv2d(x, signs, stride, padding, dilation, groups, pad_value)
    return y if scales is None else y.mul_(scales[:, None, None])


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
    pairs = stride, padding, dilation
    wanted = ctx.needs_input_grad[:2]
    grad_x, grad_weight = convolution_gradients(grad, x, weight, pairs, groups, wanted)
    if pad_value and grad_x is not None:
        grad_x = grad_x[..., top : top + height, left : left + width]
    return grad_x, grad_weight, None, None, None, None, None


_binary_conv2d.register_autograd(_conv_backward, setup_context=_save_for_conv)


def _plain_linear(x: Tensor, weight: Tensor) -> Tensor:
    y = native_linear(x, weight)
    if y is not None:
        return y
    signs, scales = _parts(weight)
    y = F.linear(x, signs)
    return y if scales is None else y.mul_(scales)


_binary_linear = torch.library.custom_op('mmesbnn::binary_linear', _plain_linear, mutates_args=())


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


def _plain_matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


_binary_matmul = torch.library.custom_op('mmesbnn::binary_matmul', _plain_matmul, mutates_args=())


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


class Operator(NamedTuple):
    """Ways to run one operator: registered, or directly with torch's operators.

    Of a weight without scales ``unscaled`` computes the same as ``compute``, which searches them.
    """

    registered: Any
    compute: Callable[..., Tensor]
    unscaled: Callable[..., Tensor]
    save: Callable[[Any, tuple[Any, ...], Any], None]
    backward: Callable[[Any, Tensor], tuple[Any, ...]]


CONV2D = Operator(_binary_conv2d, plain_conv2d, _float_conv2d, _save_for_conv, _conv_backward)
LINEAR = Operator(_binary_linear, _plain_linear, F.linear, _save_for_linear, _linear_backward)
MATMUL = Operator(_binary_matmul, _plain_matmul, _plain_matmul, _save_for_linear, _matmul_backward)
