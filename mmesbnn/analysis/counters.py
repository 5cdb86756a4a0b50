"""Number of multiplications of each operator, one short formula per operator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..binary.operators import BINARY_CONV2D, BINARY_LINEAR, BINARY_MATMUL

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


def sum_of_products(args: Sequence[Any], out: Tensor) -> int:
    """Count the multiplications of ``c + sum_i a_i b_i``."""
    return out.numel() * args[1].shape[0] * args[1].shape[-1]


def grouped_product(args: Sequence[Any], out: Tensor) -> int:
    """Count the multiplications of products of groups of rows, or of groups of terms."""
    groups_of_terms = args[0].dim() == args[1].dim() == 2
    return (out[0] if groups_of_terms else out).numel() * args[0].shape[-1]


def bilinear(args: Sequence[Any], out: Tensor) -> int:
    """Count those of ``x W z``: for each output entry those of ``W z`` and of ``x (W z)``."""
    weight = args[1]
    return out.numel() * weight.shape[1] * (weight.shape[2] + 1)


def recurrent(args: Sequence[Any], out: Any) -> int:
    """Count one product with every matrix of the weights per step and sequence."""
    weights = args[1] if isinstance(args[1], (list, tuple)) else args[1:3]
    return args[0].shape[:-1].numel() * sum(w.numel() for w in weights if w.dim() > 1)


def attention(args: Sequence[Any], out: Any) -> int:
    """Count ``L S (E + E_v)`` per head: ``L`` queries of ``E``, ``S`` values of ``E_v``."""
    query, key, value = (operand.shape for operand in args[:3])
    return query[:-1].numel() * key[-2] * (query[-1] + value[-1])


#: Real convolutions; networks of ``torch.jit.trace`` call the second one.
CONVOLUTIONS = (aten.convolution.default, aten._convolution.default)

#: Formula of each operator, a function of its arguments and its result.
COUNTERS: dict[Any, Callable[[Sequence[Any], Any], int]] = {
    BINARY_CONV2D: binary_conv2d,
    BINARY_LINEAR: product,
    BINARY_MATMUL: product,
    **dict.fromkeys(CONVOLUTIONS, convolution),
    aten.linear.default: product,
    aten.mm.default: product,
    aten.mv.default: product,
    aten.bmm.default: product,
    aten.addmm.default: added_product,
    aten.addmv.default: added_product,
    aten.baddbmm.default: added_product,
    aten.addbmm.default: sum_of_products,
    aten.dot.default: product,
    aten.vdot.default: product,
    aten._trilinear.default: bilinear,
}
# The sets of kernels depend on the version of torch.
for _kernel in ('mkldnn_rnn_layer', '_cudnn_rnn', 'miopen_rnn'):
    if hasattr(aten, _kernel):
        COUNTERS[getattr(aten, _kernel).default] = recurrent
for _kernel, _formula in (
    ('_int_mm', product),  # of quantized networks
    ('_scaled_mm', product),
    ('_weight_int8pack_mm', product),
    ('_grouped_mm', grouped_product),  # of mixtures of experts
    ('_scaled_grouped_mm', grouped_product),
    ('_addmm_activation', added_product),
):
    if hasattr(aten, _kernel):
        COUNTERS[getattr(aten, _kernel).default] = _formula
for _kernel in (
    'flash_attention',
    'flash_attention_for_cpu',
    'efficient_attention',
    'cudnn_attention',
    'fused_attention_overrideable',
):
    if hasattr(aten, f'_scaled_dot_product_{_kernel}'):
        COUNTERS[getattr(aten, f'_scaled_dot_product_{_kernel}').default] = attention

#: Formulas of operators of packages that may be imported later, by their names.
_OTHERS: dict[str, Callable[[Sequence[Any], Any], int]] = {
    'torchvision::deform_conv2d': binary_conv2d
}


def counter(operator: Any) -> Callable[[Sequence[Any], Any], int] | None:
    """Return the formula of ``operator``, None if it multiplies nothing that is counted.

    The form of an operator that writes into a given tensor has the formula of the operator.
    """
    found = COUNTERS.get(operator)
    schema = getattr(operator, '_schema', None)
    if found is not None or schema is None:
        return found
    if operator.namespace != 'aten':
        return _OTHERS.get(schema.name)
    usual = getattr(aten, schema.name.removeprefix('aten::').rstrip('_'), None)
    return COUNTERS.get(getattr(usual, 'default', None)) if schema.is_mutable else None


@functools.cache
def check_visible(operator: Any) -> None:
    """Raise an error if ``operator`` multiplies with a weight of a form that hides its shape.

    Raises:
        NotImplementedError: If it does, as a layer of ``torch.ao.nn.quantized`` does. Without the
            error it would be missing in a count.
    """
    schema = getattr(operator, '_schema', None)
    if schema and any('ParamsBase' in str(x.type) for x in schema.arguments[1:]):
        raise NotImplementedError(
            f'count_ops cannot count {schema.name}, whose weight is packed: count the network '
            'before its layers are quantized'
        )


#: Operators whose two operands are activations, unless a linear layer uses them.
ACTIVATION_PRODUCTS = {
    aten.bmm.default,
    aten.baddbmm.default,
    aten.addbmm.default,
    *(operator for operator, count in COUNTERS.items() if count is attention),
}
