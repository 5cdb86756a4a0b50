"""Number of multiplications of each operator, one short formula per operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..binary.functional import BINARY_CONV2D, BINARY_LINEAR, BINARY_MATMUL

aten = torch.ops.aten


def convolution(args: Sequence[Any], out: Tensor) -> int:
    """Count ``numel(y) C_i/groups k_h k_w``; transposed ``numel(x) C_o/groups k_h k_w``."""
    x, weight, transposed = args[0], args[1], args[6]
    return (x if transposed else out).numel() * weight.shape[1:].numel()


def binary_conv2d(args: Sequence[Any], out: Tensor) -> int:
    """Count ``numel(y) C_i/groups k_h k_w``, including padded pixels."""
    return out.numel() * args[1].shape[1:].numel()


def product(args: Sequence[Any], out: Tensor) -> int:
    """Count ``numel(a b)`` times the length of the summed axis."""
    return out.numel() * args[0].shape[-1]


def added_product(args: Sequence[Any], out: Tensor) -> int:
    """Count the multiplications of ``c + a b`` as :func:`product` does."""
    return out.numel() * args[1].shape[-1]


def attention(args: Sequence[Any], out: Any) -> int:
    """Count ``L S (E + E_v)`` per head: ``L`` queries of ``E``, ``S`` values of ``E_v``."""
    query, key, value = (operand.shape for operand in args[:3])
    return query[:-1].numel() * key[-2] * (query[-1] + value[-1])


#: Formula of each operator, a function of its arguments and its result.
COUNTERS: dict[Any, Callable[[Sequence[Any], Any], int]] = {
    BINARY_CONV2D: binary_conv2d,
    BINARY_LINEAR: product,
    BINARY_MATMUL: product,
    aten.convolution.default: convolution,
    aten.linear.default: product,
    aten.mm.default: product,
    aten.mv.default: product,
    aten.bmm.default: product,
    aten.addmm.default: added_product,
    aten.addmv.default: added_product,
    aten.baddbmm.default: added_product,
}
# The set of attention kernels depends on the version of torch.
for _kernel in (
    'flash_attention',
    'flash_attention_for_cpu',
    'efficient_attention',
    'cudnn_attention',
    'fused_attention_overrideable',
):
    if hasattr(aten, f'_scaled_dot_product_{_kernel}'):
        COUNTERS[getattr(aten, f'_scaled_dot_product_{_kernel}').default] = attention

#: Operators whose two operands are activations, unless a linear layer uses them.
ACTIVATION_PRODUCTS = {
    aten.bmm.default,
    aten.baddbmm.default,
    *(operator for operator, count in COUNTERS.items() if count is attention),
}
