"""Operators of all binary arithmetic.

They are registered with ``torch.library`` under the names ``mmesbnn::binary_conv2d``,
``mmesbnn::binary_linear`` and ``mmesbnn::binary_matmul``. Tools that analyse a network
(OPs counter, binary check, packer, exporter, selective recomputation) recognise binary
arithmetic by these operators and need no knowledge of the model.

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

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..native import Packed, PackedWeights
from .expansion import is_channels_last
from .native_mode import (
    POINTWISE,
    bits_to_save,
    convolve_packed,
    is_native,
    map_of_rows,
    native_conv2d,
    native_linear,
    pack_operands,
    packed_gradients,
    rows_of_map,
    saved_bits,
)
from .once_differentiable import once_differentiable
from .signs import compiles_for_speed
from .strided_gradient import convolution_gradients
from .tracing import is_transformed
from .weight_values import signs_and_scales

PAD_VALUES = (-1, 0, 1)
#: Types in which sums of signs are exact.
_WIDE = (torch.float32, torch.float64)

IntPair = int | Sequence[int]


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


class _Operator(NamedTuple):
    """Ways to run one operator: registered, or directly with torch's operators.

    Of a weight without scales ``unscaled`` computes the same as ``compute``, which searches them.
    """

    registered: Any
    compute: Callable[..., Tensor]
    unscaled: Callable[..., Tensor]
    save: Callable[[Any, tuple[Any, ...], Any], None]
    backward: Callable[[Any, Tensor], tuple[Any, ...]]


_CONV2D = _Operator(_binary_conv2d, plain_conv2d, _float_conv2d, _save_for_conv, _conv_backward)
_LINEAR = _Operator(_binary_linear, _plain_linear, F.linear, _save_for_linear, _linear_backward)
_MATMUL = _Operator(
    _binary_matmul, _plain_matmul, _plain_matmul, _save_for_linear, _matmul_backward
)


class _Direct(torch.autograd.Function):
    """Step of autograd with the formulas of a registered operator."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, settings: tuple[Any, ...], operator: _Operator
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


def is_seen(*operands: Tensor) -> bool:
    """Return whether a mode, a trace or a subclass of tensors can see which operator runs."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]  # public, not in its __all__
        or torch._C._len_torch_dispatch_stack() > 0
        or not all(type(x) in (Tensor, nn.Parameter) for x in operands)
    )


def _run(
    operator: _Operator, a: Tensor, b: Tensor, *settings: Any, scaled: bool | None = None
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
    operator: _Operator, x: Tensor, weight: Tensor, settings: tuple[Any, ...]
) -> Tensor | None:
    """Run a step of training on packed operands; return None where torch's operator must run."""
    if operator is _MATMUL or not is_native():
        return None
    if operator is _LINEAR:
        y = _run_on_bits(_CONV2D, map_of_rows(x), weight[:, :, None, None], POINTWISE)
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
    return _run(_CONV2D, x, weight, *pairs, groups, float(pad_value), scaled=scaled)


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
    return _run(_LINEAR, x, weight, scaled=scaled)


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
    return _run(_MATMUL, a, b)
