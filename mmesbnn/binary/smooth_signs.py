"""Signs whose gradient is that of a smooth function: swish, tanh, powers, Fourier series.

Three of them approach the sign in the course of a training. The progress of the training is
``p``, from 0 to 1.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checks import number, positive, positive_int
from .arguments import checked_layer
from .entries import SIGNS
from .estimators import window_gradient
from .progress import Scheduled, progress_of
from .signs import Sign, clip_to, finite, sign, with_surrogate
from .tracing import whole_layer

#: Bound of exponents. Beyond it a sigmoid is 0 or 1 and its slope less than 1e-25.
_STEEPEST = 60.0


# swish --------------------------------------------------------------------------------


def _swish_argument(x: Tensor, beta: float) -> Tensor:
    return (beta * finite(x)).clamp(-_STEEPEST, _STEEPEST)


def _swish(x: Tensor, beta: float) -> Tensor:
    u = _swish_argument(x, beta)
    return 2 * u.sigmoid() * (1 + u * (-u).sigmoid()) - 1


def _swish_gradient(grad: Tensor, x: Tensor, beta: float) -> Tensor:
    u = _swish_argument(x, beta)
    slope = u.sigmoid() * (-u).sigmoid()
    return grad * (2 * beta * slope * (2 - u * (u / 2).tanh()))


def swish_sign(x: Tensor, beta: float = 5.0, zero: int = -1) -> Tensor:
    """Compute the sign, with the gradient of the sign-swish function.

    With ``s = sigmoid(beta x)`` the function is ``2 s (1 + beta x (1 - s)) - 1``. Its gradient
    is ``dy/dx = beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x))``.

    Args:
        x: Tensor of any shape.
        beta: Steepness, > 0. Default 5.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Darabi et al., "BNN+: Improved Binary Network Training" (2018); larq's
    ``SwishSign``.
    """
    return with_surrogate(
        x, partial(sign, zero=zero), partial(_swish, beta=beta), partial(_swish_gradient, beta=beta)
    )


@SIGNS.add('swish')
class SwishSign(Sign):
    """:func:`swish_sign` as a module.

    Args:
        beta: Steepness, > 0. Default 5.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``beta`` is not positive or ``zero`` not one of -1, 0.
    """

    @checked_layer(beta=positive)
    def __init__(self, beta: float = 5.0, zero: int = -1) -> None:
        super().__init__(zero)
        self.beta = beta

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, a tensor of any shape."""
        return swish_sign(x, self.beta, self.zero)

    def extra_repr(self) -> str:
        return f'beta={self.beta}, {super().extra_repr()}'


# error decay estimator ----------------------------------------------------------------


def sharpness(progress: Tensor | float, like: Tensor, start: float, end: float) -> Tensor:
    """Compute ``t = start (end / start)^p`` of the error decay estimator, in ``like``'s dtype."""
    return (start * (end / start) ** progress_of(progress, like)).to(like.dtype)


def decaying_tanh(x: Tensor, t: Tensor) -> Tensor:
    """Compute ``k tanh(t x)`` with ``k = max(1 / t, 1)``."""
    return t.reciprocal().clamp(min=1) * (t * x).tanh()


def decaying_tanh_gradient(grad: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Compute ``grad k t (1 - tanh^2(t x))`` with ``k = max(1 / t, 1)``."""
    return grad * (t.clamp(min=1) * (1 - (t * x).tanh().square()))


def ede_sign(
    x: Tensor, progress: Tensor | float = 0.0, start: float = 0.1, end: float = 10.0, zero: int = -1
) -> Tensor:
    """Compute the sign, with the gradient of the error decay estimator (EDE).

    ``dy/dx = k t (1 - tanh^2(t x))``, the derivative of ``k tanh(t x)``, with ``t = start
    (end / start)^p`` and ``k = max(1 / t, 1)``. At first it is nearly the identity, at the end
    a narrow peak at 0.

    Args:
        x: Tensor of any shape.
        progress: ``p``, progress of the training, from 0 to 1. Default 0.
        start: ``t`` at the start, > 0. Default 0.1.
        end: ``t`` at the end, > 0. Default 10.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Qin et al., "Forward and Backward Information Retention for Accurate Binary Neural
    Networks" (IR-Net, 2020).
    """
    t = sharpness(progress, x, start, end)
    return with_surrogate(
        x,
        partial(sign, zero=zero),
        partial(decaying_tanh, t=t),
        partial(decaying_tanh_gradient, t=t),
    )


@SIGNS.add('ede')
class EDESign(Scheduled, Sign):
    """:func:`ede_sign` as a module; the progress is a buffer outside of the state dict.

    Args:
        start: ``t`` at the start, > 0. Default 0.1.
        end: ``t`` at the end, > 0. Default 10.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``start`` or ``end`` is not positive or ``zero`` not one of -1, 0.
    """

    @checked_layer(start=positive, end=positive)
    def __init__(self, start: float = 0.1, end: float = 10.0, zero: int = -1) -> None:
        super().__init__(zero)
        self.start, self.end = start, end

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, a tensor of any shape."""
        return ede_sign(x, self.progress, self.start, self.end, self.zero)

    def extra_repr(self) -> str:
        return f'start={self.start}, end={self.end}, {super().extra_repr()}'


# rectified straight-through estimator -------------------------------------------------


def _power(x: Tensor, root: Tensor, near: float, clip: float) -> Tensor:
    clipped = clip_to(x, -clip, clip)
    size, linear = clipped.abs(), clipped * near ** (root - 1)
    return torch.where(size <= near, linear, sign(x.detach(), 0) * size.clamp(min=near) ** root)


def _power_gradient(grad: Tensor, x: Tensor, root: Tensor, near: float, clip: float) -> Tensor:
    size = x.abs()
    steep = root * size.clamp(min=near) ** (root - 1)
    slope = torch.where(size <= near, near ** (root - 1), steep)
    return window_gradient(grad, x, clip) * slope


def reste_sign(
    x: Tensor,
    progress: Tensor | float = 0.0,
    power: float = 3.0,
    near: float = 0.1,
    clip: float = 1.5,
    zero: int = -1,
) -> Tensor:
    """Compute the sign, with the gradient of the rectified straight-through estimator (ReSTE).

    The gradient is that of ``sign(x) |x|^(1/o)``, with ``o = 1 + p (power - 1)``::

        dy/dx = m^(1/o - 1)          if |x| <= m and |x| <= clip
                (1/o) |x|^(1/o - 1)  if m < |x| <= clip
                0                    if |x| > clip

    The first line is the mean slope near 0, where the slope itself has no bound. At the start
    this is the gradient of the hard tanh.

    Args:
        x: Tensor of any shape.
        progress: ``p``, progress of the training, from 0 to 1. Default 0.
        power: ``o`` at the end, >= 1. Default 3.
        near: ``m``, half width of the part with a constant slope, > 0. Default 0.1.
        clip: Half width of the window that lets gradients pass, > 0. Default 1.5.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Wu et al., "Estimator Meets Equilibrium Perspective: A Rectified Straight Through
    Estimator for Binary Neural Networks Training" (2023); constants of its code.
    """
    root = (1 / (1 + progress_of(progress, x) * (power - 1))).to(x.dtype)
    settings: dict[str, Any] = dict(root=root, near=near, clip=clip)
    return with_surrogate(
        x,
        partial(sign, zero=zero),
        partial(_power, **settings),
        partial(_power_gradient, **settings),
    )


@SIGNS.add('reste')
class ReSTESign(Scheduled, Sign):
    """:func:`reste_sign` as a module; the progress is a buffer outside of the state dict.

    Args:
        power: ``o`` at the end, >= 1. Default 3.
        near: Half width of the part with a constant slope, > 0. Default 0.1.
        clip: Half width of the window that lets gradients pass, > 0. Default 1.5.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``power`` is less than 1, ``near`` or ``clip`` not positive, or ``zero``
            not one of -1, 0.
    """

    @checked_layer(power=number(least=1), near=positive)
    def __init__(
        self, power: float = 3.0, near: float = 0.1, clip: float = 1.5, zero: int = -1
    ) -> None:
        super().__init__(zero)
        self.power, self.near, self.clip = power, near, clip

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, a tensor of any shape."""
        return reste_sign(x, self.progress, self.power, self.near, self.clip, self.zero)

    def extra_repr(self) -> str:
        own = f'power={self.power}, near={self.near}, clip={self.clip}'
        return f'{own}, {super().extra_repr()}'


# frequency domain approximation -------------------------------------------------------


def _series(x: Tensor, terms: Tensor, most: int, frequency: float) -> Tensor:
    angle = (x * frequency).clamp(-math.pi / 2, math.pi / 2)
    parts = [
        (i < terms).to(x.dtype) * ((2 * i + 1) * angle).sin() / (2 * i + 1) for i in range(most)
    ]
    return 4 / math.pi * torch.stack(parts).sum(0)


def _series_gradient(grad: Tensor, x: Tensor, terms: Tensor, frequency: float) -> Tensor:
    quarter = math.pi / (2 * frequency)
    turns = x.clamp(-quarter, quarter) * (frequency / math.pi)
    # sum cos((2 i + 1) a) = sin(2 n a) / (2 sin a), in a form without 0 / 0
    total = terms.to(x.dtype) * (2 * terms.to(x.dtype) * turns).sinc() / turns.sinc()
    return window_gradient(grad, x, quarter) * (4 * frequency / math.pi * total)


def fda_sign(
    x: Tensor,
    progress: Tensor | float = 0.0,
    terms: tuple[int, int] = (9, 18),
    frequency: float = 0.1,
    zero: int = -1,
) -> Tensor:
    """Compute the sign, with the gradient of the first terms of its Fourier series (FDA).

    The series of a square wave is ``4/pi sum_i sin((2i + 1) w x) / (2i + 1)``, and::

        dy/dx = 4 w / pi sum_{i < n} cos((2 i + 1) w x)   if |x| <= pi / (2 w), else 0

    The wave changes its sign twice per period. The gradient therefore ends at a quarter of the
    period, where it is 0. ``n`` grows with the progress, ``n = round(n_0 + p (n_1 - n_0))``.
    The noise adaptation module of the paper is not here: two linear layers and a shortcut that
    correct gradients. It has weights of the layer's width, which files would store although
    inference never reads them.

    Args:
        x: Tensor of any shape.
        progress: ``p``, progress of the training, from 0 to 1. Default 0.
        terms: ``n_0`` and ``n_1``, numbers of terms at the start and at the end. Default 9
            and 18.
        frequency: ``w``, > 0. Default 0.1.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Xu et al., "Learning Frequency Domain Approximation for Binary Neural Networks"
    (2021).
    """
    first, last = terms
    count = (first + progress_of(progress, x) * (last - first)).round()
    return with_surrogate(
        x,
        partial(sign, zero=zero),
        partial(_series, terms=count, most=max(terms), frequency=frequency),
        partial(_series_gradient, terms=count, frequency=frequency),
    )


@SIGNS.add('fda')
class FDASign(Scheduled, Sign):
    """:func:`fda_sign` as a module; the progress is a buffer outside of the state dict.

    Args:
        first_terms: Number of terms at the start, >= 1. Default 9.
        last_terms: Number of terms at the end, >= 1. Default 18.
        frequency: ``w``, > 0. Default 0.1.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If a number of terms or ``frequency`` is not positive, or ``zero`` not one
            of -1, 0.
    """

    @checked_layer(first_terms=positive_int, last_terms=positive_int, frequency=positive)
    def __init__(
        self, first_terms: int = 9, last_terms: int = 18, frequency: float = 0.1, zero: int = -1
    ) -> None:
        super().__init__(zero)
        self.terms, self.frequency = (first_terms, last_terms), frequency

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, a tensor of any shape."""
        return fda_sign(x, self.progress, self.terms, self.frequency, self.zero)

    def extra_repr(self) -> str:
        return f'terms={self.terms}, frequency={self.frequency}, {super().extra_repr()}'
