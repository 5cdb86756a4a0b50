"""Formulas of binary products for the FLOP counters of torch and mmengine.

The counters count a binary multiplication as a real one, under the operator's name.
``tools/count_ops.py`` counts the two separately. mmengine also counts activations, which are the
outputs of products.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import torch
from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import generic_activation_jit, get_shape
from torch.utils import flop_counter

from ..binary.operators import BINARY_CONV2D, BINARY_LINEAR, BINARY_MATMUL


def convolution(x: Any, weight: Any, out: Any) -> int:
    """Count the multiplications of a convolution with these shapes."""
    return prod(out) * prod(weight[1:])


def product(a: Any, b: Any, out: Any) -> int:
    """Count the multiplications of a product with these shapes."""
    return prod(out) * a[-1]


FORMULAS = {BINARY_CONV2D: convolution, BINARY_LINEAR: product, BINARY_MATMUL: product}


def _register(operator: torch._ops.OpOverload, count: Any) -> None:
    def torchs(a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * count(a, b, out_shape)  # a multiplication and an addition

    def mmengines(inputs: list[Any], outputs: list[Any]) -> Counter[Any]:
        shapes = [get_shape(value) for value in (*inputs[:2], outputs[0])]
        return Counter({name: count(*shapes)})

    name = operator._schema.name
    packet = operator.overloadpacket
    if packet not in flop_counter.flop_registry:
        flop_counter.register_flop_formula(packet)(torchs)
    complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS.setdefault(name, mmengines)
    complexity_analysis._DEFAULT_SUPPORTED_ACT_OPS.setdefault(name, generic_activation_jit())


def register_flop_counters() -> None:
    """Register the binary operators at the counters of torch and mmengine, once."""
    for operator, count in FORMULAS.items():
        _register(operator, count)
