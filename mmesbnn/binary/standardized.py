"""Weight binarizers that standardize weights first: IR-Net's balanced weights, and ReCU.

``s = (w - mean(w)) / std(w)`` per output channel, with the population's deviation.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from ..checks import number, positive
from .arguments import checked_layer
from .entries import WEIGHT_BINARIZERS
from .forms import WeightForm
from .precision import wide_dtype
from .progress import Scheduled, progress_of
from .signs import Binarizer, clip_to, finite, sign, with_surrogate
from .smooth_signs import decaying_tanh, decaying_tanh_gradient, sharpness
from .weights import WeightBinarizer, per_output_mean_abs, scaled_signs

#: Smallest deviation of an output channel. A channel of equal weights is divided by it.
_SMALLEST = 1e-8


def standardize(weight: Tensor) -> Tensor:
    """Compute ``(w - mean) / max(std, 1e-8)`` per output channel, in float32 at least.

    One or two weights become 0 or +-1 whatever they are, so their gradient is 0.
    """
    axes = tuple(range(1, weight.dim()))
    wide = weight.to(wide_dtype(weight.dtype))
    centred = wide - wide.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    standard = centred / variance.clamp(min=_SMALLEST**2).sqrt()
    if weight[:1].numel() <= 2:  # autograd would give rounding errors, divided by the deviation
        return standard.detach() + 0 * wide
    return standard


# balanced -----------------------------------------------------------------------------


def _power_of_two(standard: Tensor) -> Tensor:
    mean = per_output_mean_abs(standard.detach())
    return mean.clamp(min=_SMALLEST).log2().round().exp2()


def _shifted_signs(standard: Tensor, zero: int) -> Tensor:
    return _power_of_two(standard) * sign(standard, zero)


def _shifted_tanh(standard: Tensor, t: Tensor) -> Tensor:
    return _power_of_two(standard) * decaying_tanh(standard, t)


def _shifted_gradient(grad: Tensor, standard: Tensor, t: Tensor) -> Tensor:
    return _power_of_two(standard) * decaying_tanh_gradient(grad, standard, t)


def balanced_weight(
    weight: Tensor,
    progress: Tensor | float = 0.0,
    start: float = 0.1,
    end: float = 10.0,
    zero: int = -1,
) -> Tensor:
    """Compute ``2^e sign(s)`` of standardized weights ``s``, ``e = round(log2(mean|s|))``.

    A standardized channel has about as many weights of either sign, so that its signs hold the
    most information. The scale per output channel is a power of two and carries no gradient.
    With ``t`` and ``k`` of :func:`~mmesbnn.binary.ede_sign`::

        dy/ds = 2^e k t (1 - tanh^2(t s))

    Gradients also flow through the mean and the deviation.

    Args:
        weight: Latent weight ``(C_o, ...)``.
        progress: Progress of the training, from 0 to 1. Default 0.
        start: ``t`` at the start, > 0. Default 0.1.
        end: ``t`` at the end, > 0. Default 10.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Qin et al., "Forward and Backward Information Retention for Accurate Binary Neural
    Networks" (IR-Net, 2020).
    """
    standard = standardize(weight)
    t = sharpness(progress, standard, start, end)
    value = with_surrogate(
        standard,
        partial(_shifted_signs, zero=zero),
        partial(_shifted_tanh, t=t),
        partial(_shifted_gradient, t=t),
    )
    return value.to(weight.dtype)


@WEIGHT_BINARIZERS.add('balanced')
class BalancedWeight(Scheduled, Binarizer, WeightBinarizer):
    """:func:`balanced_weight` as a module; the progress is a buffer outside of the state dict.

    Args:
        start: ``t`` at the start, > 0. Default 0.1.
        end: ``t`` at the end, > 0. Default 10.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``start`` or ``end`` is not positive or ``zero`` not one of -1, 0.
    """

    form = WeightForm(scaled=True)

    @checked_layer(start=positive, end=positive)
    def __init__(self, start: float = 0.1, end: float = 10.0, zero: int = -1) -> None:
        super().__init__(zero)
        self.start, self.end = start, end

    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight, of ``weight``'s shape."""
        return balanced_weight(weight, self.progress, self.start, self.end, self.zero)

    def extra_repr(self) -> str:
        return f'start={self.start}, end={self.end}, {super().extra_repr()}'


# rectified clamp unit -----------------------------------------------------------------


def _scaled_identity(clamped: Tensor) -> Tensor:
    return per_output_mean_abs(clamped.detach()) * finite(clamped)


def _scaled_gradient(grad: Tensor, clamped: Tensor) -> Tensor:
    return per_output_mean_abs(clamped.detach()) * grad


def recu_weight(
    weight: Tensor,
    progress: Tensor | float = 0.0,
    start: float = 0.85,
    end: float = 0.99,
    zero: int = -1,
) -> Tensor:
    """Compute ``mean|c| sign(c)`` of standardized and clamped weights ``c = clamp(s, -Q, Q)``.

    ``Q = -ln(2 - 2 tau) mean|s|`` is the quantile ``tau`` of a Laplace distribution with the
    layer's mean magnitude. Clamping moves weights of the tails, which hardly ever change their
    sign, towards the others. ``tau`` grows with the progress ``p``::

        tau = start + (end - start) (e^p - 1) / (e - 1)
        dy/ds = mean|c| if |s| <= Q else 0

    Gradients also flow through the mean and the deviation of ``s``, but not through ``Q`` and
    the scale, which is a mean per output channel. (The published code learns the scale.)

    Args:
        weight: Latent weight ``(C_o, ...)``.
        progress: ``p``, progress of the training, from 0 to 1. Default 0.
        start: ``tau`` at the start, between 0.5 and 1. Default 0.85.
        end: ``tau`` at the end, between 0.5 and 1. Default 0.99.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Xu et al., "ReCU: Reviving the Dead Weights in Binary Neural Networks" (2021).
    """
    standard = standardize(weight)
    grown = progress_of(progress, standard).expm1() / math.expm1(1)
    tau = start + (end - start) * grown
    bound = -(2 - 2 * tau).log() * standard.detach().abs().mean()
    clamped = clip_to(standard, -bound, bound)
    value = with_surrogate(
        clamped, partial(scaled_signs, zero=zero), _scaled_identity, _scaled_gradient
    )
    return value.to(weight.dtype)


@WEIGHT_BINARIZERS.add('recu')
class ReCUWeight(Scheduled, Binarizer, WeightBinarizer):
    """:func:`recu_weight` as a module; the progress is a buffer of the state dict.

    Args:
        start: ``tau`` at the start, between 0.5 and 1. Default 0.85.
        end: ``tau`` at the end, between 0.5 and 1. Default 0.99.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``start`` or ``end`` is not between 0.5 and 1, or ``zero`` not one of
            -1, 0.
    """

    form = WeightForm(scaled=True)
    progress_is_saved = True

    @checked_layer(start=number(above=0.5, below=1), end=number(above=0.5, below=1))
    def __init__(self, start: float = 0.85, end: float = 0.99, zero: int = -1) -> None:
        super().__init__(zero)
        self.start, self.end = start, end

    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight, of ``weight``'s shape."""
        return recu_weight(weight, self.progress, self.start, self.end, self.zero)

    def extra_repr(self) -> str:
        return f'start={self.start}, end={self.end}, {super().extra_repr()}'
