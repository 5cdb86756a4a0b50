"""Activations with other values than -1 and 1: 0 and 1, and k bits."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import integer
from .arguments import checked_layer
from .entries import SIGNS
from .estimators import window_gradient
from .forms import InputForm
from .signs import clip_to, hard_tanh, needs_grad, with_surrogate
from .tracing import whole_layer

#: Numbers next to 0 and 1. torch's gradient of a hard tanh leaves out its ends.
_BELOW_0, _ABOVE_1 = -(2.0**-149), 1 + 2.0**-23


def _step(x: Tensor) -> Tensor:
    if needs_grad(x):
        x = x.detach()
    return F.threshold(x, 0.0, 0.0).clamp_(max=1).ceil_()


def heaviside(x: Tensor, clip: float = 1.0) -> Tensor:
    """Compute 1 if ``x > 0``, else 0, with the gradient of the hard tanh; NaN stays NaN.

    ``dy/dx = 1 if |x| <= clip else 0``.

    Args:
        x: Tensor of any shape.
        clip: Half width of the window that lets gradients pass, > 0. Default 1.

    Source: larq's ``SteHeaviside``; Hubara et al., "Binarized Neural Networks" (2016), for the
    gradient.
    """
    return with_surrogate(
        x, _step, partial(hard_tanh, clip=clip), partial(window_gradient, clip=clip)
    )


@SIGNS.add('heaviside')
class Heaviside(nn.Module):
    """:func:`heaviside` as a module: activations that are 0 or 1.

    A product with a weight of -1 or 1 is still one binary operation, an AND. The kernels for
    signs multiply -1 and 1 only, so an export leaves these layers in full precision.

    Args:
        clip: Half width of the gradient's window, > 0. Default 1.

    Raises:
        ValueError: If ``clip`` is not positive.
    """

    form = InputForm(low=0)

    @checked_layer()
    def __init__(self, clip: float = 1.0) -> None:
        super().__init__()
        self.clip = clip

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, a tensor of any shape."""
        return heaviside(x, self.clip)

    def extra_repr(self) -> str:
        return f'clip={self.clip}'


def _levels(x: Tensor, steps: int) -> Tensor:
    return (x.clamp(0, 1) * steps).round_() / steps


def _unit(x: Tensor) -> Tensor:
    return clip_to(x, 0, 1)


def _unit_gradient(grad: Tensor, x: Tensor) -> Tensor:
    above = math.nextafter(1, math.inf) if x.dtype == torch.float64 else _ABOVE_1
    return torch.ops.aten.hardtanh_backward(grad, x, _BELOW_0, above)


def dorefa(x: Tensor, bits: int = 2) -> Tensor:
    """Round to ``2^k`` evenly spaced values from 0 to 1.

    ``y = round((2^k - 1) c) / (2^k - 1)`` with ``c = clamp(x, 0, 1)``. A half is rounded to
    the even number. ``dy/dx = 1 if 0 <= x <= 1 else 0``.

    Args:
        x: Tensor of any shape.
        bits: ``k``, 1 to 8. Default 2.

    Source: Zhou et al., "DoReFa-Net" (2016); larq's ``DoReFa``.
    """
    return with_surrogate(x, partial(_levels, steps=2**bits - 1), _unit, _unit_gradient)


@SIGNS.add('dorefa')
class DoReFa(nn.Module):
    """:func:`dorefa` as a module: activations with ``k`` bits.

    Products with binary weights count ``k`` binary operations, one per bit. An export leaves
    these layers in full precision, because the kernels multiply -1 and 1 only.

    Args:
        bits: ``k``, 1 to 8. Default 2.

    Raises:
        ValueError: If ``bits`` is not an integer from 1 to 8.
    """

    @checked_layer(bits=integer(1, 8))
    def __init__(self, bits: int = 2) -> None:
        super().__init__()
        self.bits = bits
        self.form = InputForm(bits=bits, low=0)

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, a tensor of any shape."""
        return dorefa(x, self.bits)

    def extra_repr(self) -> str:
        return f'bits={self.bits}'
