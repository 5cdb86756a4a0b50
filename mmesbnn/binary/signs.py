"""Sign functions and their surrogate gradients.

All functions have the same forward result::

    sign(x) = +1 if x > 0,  -1 if x < 0,  `zero` if x == 0,  NaN if x is NaN

``zero`` is -1 by default, so that a binary layer sees exactly two values. Training,
packing and export (OpenVINO's ``x > 0`` test) share this convention. ``zero=0`` gives
the values of ``torch.sign``, which the published networks use.

Their gradients differ. The gradient of the sign is zero almost everywhere, so each
function uses the derivative of a smoother function, its *surrogate*.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import shown
from .arguments import RULES, checked_layer
from .entries import SIGNS
from .estimators import Gradient, estimate, triangle_gradient, window_gradient
from .forms import InputForm
from .tracing import is_transformed, whole_layer

ZERO_CONVENTIONS = (-1, 0)
# Both bounds are numbers, or both tensors.
Bound = TypeVar('Bound', float, Tensor)


def check_zero(zero: int) -> None:
    """Raise a ``ValueError`` if ``zero`` is not -1 or 0."""
    if zero not in ZERO_CONVENTIONS:
        raise ValueError(f'{shown("zero", zero)} must be {RULES["zero"].says}')


def is_composed() -> bool:
    """Return whether torch's operations compute gradients, not our single steps.

    True for ``torch.func`` and forward-mode differentiation, which need plain operations,
    and for ``torch.compile``, which fuses them.
    """
    return torch.compiler.is_compiling() or is_transformed()


def compiles_for_speed() -> bool:
    """Return whether ``torch.compile`` compiles; ``torch.export`` keeps the operators it sees."""
    if not torch.compiler.is_compiling():
        return False
    # torch.compiler.is_exporting() is always True while torch.compile traces. Torch has the flag
    # since 2.7; before, all compiling counts as exporting
    return not getattr(torch.compiler, '_is_exporting_flag', True)


def needs_grad(x: Tensor) -> bool:
    """Return True if operations on ``x`` are differentiated. A surrogate costs time.

    The result is False in ``torch.jit.trace``: a traced network is for inference, and
    ``torch.jit.trace`` compares a trace with gradients to one without.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined]  # public, not in its __all__
        return False
    return is_transformed() or (torch.is_grad_enabled() and x.requires_grad)


def trains_on_cpu(*operands: Tensor) -> bool:
    """Return whether operations are differentiated eagerly on a CPU.

    Some of torch's operators are slow there, and have replacements. On an accelerator a step of
    a network takes the time of its launches, so one operator of torch is better than several.
    """
    on_cpu = all(x.device.type == 'cpu' for x in operands)
    return on_cpu and any(map(needs_grad, operands)) and not is_composed()


def sign(x: Tensor, zero: int = -1) -> Tensor:
    """Compute the sign of every entry, without a gradient.

    Args:
        x: Tensor of any shape and floating dtype.
        zero: Value of sign(0), -1 or 0. Default -1.

    Returns:
        Tensor of ``x``'s shape and dtype. NaN entries stay NaN, so that a network with
        NaN stays visible and does not become a valid binary network.
    """
    check_zero(zero)
    if not x.is_floating_point():
        raise TypeError(f'x must be a floating tensor, not {x.dtype}: its sign would be rounded')
    if needs_grad(x):
        x = x.detach()
    # torch.where is 20 times slower on a CPU, and torch.sign turns NaN into 0
    if zero == 0:
        x = x.clamp(-0.5, 0.5)
        return x.ceil().add_(x.floor())
    return F.threshold(x, 0.0, -1.0).clamp_(max=1).ceil_()


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return exactly ``value``, with the gradient of ``surrogate``.

    The form is ``value + (surrogate - surrogate)``, whose bracket is exactly 0 in
    floating point. The usual form ``(value - surrogate) + surrogate`` would round.
    """
    if not needs_grad(surrogate):
        return value
    return value.detach() + (surrogate - surrogate.detach())


def finite(x: Tensor) -> Tensor:
    """Clip infinities of a surrogate, because ``inf - inf`` would not be 0."""
    largest = torch.finfo(x.dtype).max
    return x.clamp(-largest, largest)


def with_surrogate(
    x: Tensor,
    compute: Callable[[Tensor], Tensor],
    surrogate: Callable[[Tensor], Tensor],
    gradient: Gradient | None = None,
) -> Tensor:
    """Compute ``compute(x)`` exactly, with the gradient of ``surrogate(x)``.

    Args:
        x: Tensor of any shape.
        compute: Function that returns a new tensor of ``x``'s shape and dtype.
        surrogate: Smoother function, in operations that torch differentiates.
        gradient: Formula of the surrogate's gradient, see
            :func:`mmesbnn.binary.estimators.estimate`. Default None: the gradient of the
            identity.
    """
    if not needs_grad(x):
        return compute(x)
    if is_composed():
        return straight_through(compute(x.detach()), surrogate(x))
    return estimate(x, compute, gradient)


def clip_to(x: Tensor, low: Bound, high: Bound) -> Tensor:
    """Compute ``clamp(x, low, high)``, with the gradient 1 at the bounds too.

    That of ``torch.clamp`` is 1 there before torch 2.14, and 0 from then on.
    """
    if not needs_grad(x):
        return x.clamp(low, high)
    return torch.where(x > high, high, torch.where(x < low, low, x))


def hard_tanh(x: Tensor, clip: float = 1.0) -> Tensor:
    """Compute ``clamp(x, -clip, clip)``, with the gradient 1 at the bounds too."""
    return clip_to(x, -clip, clip)


def _parabolas(x: Tensor) -> Tensor:
    clamped = x.clamp(-1, 1)
    return clamped * (2 - clamped.abs())


def hard_tanh_sign(x: Tensor, clip: float = 1.0, zero: int = -1) -> Tensor:
    """Compute the sign, with the gradient of the hard tanh.

    ``dy/dx = 1 if |x| <= clip else 0``. BNext uses ``clip=1.5``.

    Args:
        x: Tensor of any shape.
        clip: Half width of the window that lets gradients pass, > 0. Default 1.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Hubara et al., "Binarized Neural Networks" (2016), eq. 4.
    """
    return with_surrogate(
        x,
        partial(sign, zero=zero),
        partial(hard_tanh, clip=clip),
        partial(window_gradient, clip=clip),
    )


def quadratic_sign(x: Tensor, zero: int = -1) -> Tensor:
    """Compute the sign, with the gradient of a piecewise quadratic function.

    ``dy/dx = max(0, 2 - 2|x|)``, the derivative of ``c (2 - |c|)`` with
    ``c = clamp(x, -1, 1)``.

    Args:
        x: Tensor of any shape.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Liu et al., "Bi-Real Net" (2018), eq. 7, where it is called ApproxSign; also
    ReActNet, BiDet, and larq's ``ApproxSign``.
    """
    return with_surrogate(x, partial(sign, zero=zero), _parabolas, triangle_gradient)


def identity_sign(x: Tensor, zero: int = -1) -> Tensor:
    """Compute the sign, with the gradient of the identity, ``dy/dx = 1``.

    Args:
        x: Tensor of any shape.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic
    Neurons" (2013); BNext's and BiDet's weights.
    """
    return with_surrogate(x, partial(sign, zero=zero), finite)


class Binarizer(nn.Module):
    """Base of modules that compute signs. It holds the value of sign(0).

    Args:
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``zero`` is not one of -1, 0.
    """

    @checked_layer()
    def __init__(self, zero: int = -1) -> None:
        super().__init__()
        self.zero = zero

    def extra_repr(self) -> str:
        return f'zero={self.zero}'


class Sign(Binarizer):
    """Base of signs of activations; arguments as :class:`Binarizer`.

    Attributes:
        form: Values of the outputs. Default: -1 and 1.
    """

    form = InputForm()


@SIGNS.add('hard_tanh')
class HardTanhSign(Sign):
    """:func:`hard_tanh_sign` as a module.

    Args:
        clip: Half width of the gradient's window, > 0. Default 1.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``clip`` is not positive or ``zero`` not one of -1, 0.
    """

    @checked_layer()
    def __init__(self, clip: float = 1.0, zero: int = -1) -> None:
        super().__init__(zero)
        self.clip = clip

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, a tensor of any shape."""
        return hard_tanh_sign(x, self.clip, self.zero)

    def extra_repr(self) -> str:
        return f'clip={self.clip}, {super().extra_repr()}'


@SIGNS.add('quadratic', 'approx')
class QuadraticSign(Sign):
    """:func:`quadratic_sign` as a module; arguments as :class:`Binarizer`."""

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, a tensor of any shape."""
        return quadratic_sign(x, self.zero)


@SIGNS.add('identity')
class IdentitySign(Sign):
    """:func:`identity_sign` as a module; arguments as :class:`Binarizer`."""

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, a tensor of any shape."""
        return identity_sign(x, self.zero)


def build_sign(spec: Any) -> nn.Module:
    """Build a sign.

    Args:
        spec: Name of a sign, such as ``'hard_tanh'``; a dict with ``type`` and arguments,
            such as ``dict(type='hard_tanh', clip=1.5)``; or a module, which is copied. The type is
            a name of ``docs/binarizers.md`` or of :data:`mmesbnn.registry.SIGNS`, or a class.

    Raises:
        ValueError: If the name is unknown, or the class does not take the arguments.
    """
    return SIGNS.build(spec)
