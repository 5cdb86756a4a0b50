"""Weight binarizers that differ in the scale: none, a constant in the gradient, a learned one."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..checks import optional, positive, positive_int
from .arguments import checked_layer
from .entries import WEIGHT_BINARIZERS
from .estimators import window_gradient
from .forms import WeightForm
from .inputs import check_maps, is_traced
from .signs import Binarizer, hard_tanh, hard_tanh_sign, identity_sign, with_surrogate
from .tracing import whole_layer
from .weights import WeightBinarizer, per_output_mean_abs, scaled_signs


def sign_weight(weight: Tensor, clip: float | None = 1.0, zero: int = -1) -> Tensor:
    """Compute ``sign(w)`` without a scale.

    ``dy/dw = 1 if |w| <= clip else 0``; 1 everywhere with ``clip=None``.

    Args:
        weight: Latent weight of any shape.
        clip: Half width of the window that lets gradients pass, > 0, or None. Default 1.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Hubara et al., "Binarized Neural Networks" (2016), eq. 4.
    """
    return identity_sign(weight, zero) if clip is None else hard_tanh_sign(weight, clip, zero)


@WEIGHT_BINARIZERS.add('plain_sign')
class SignWeight(Binarizer, WeightBinarizer):
    """:func:`sign_weight` as a module.

    Args:
        clip: Half width of the gradient's window, > 0; None for the identity. Default 1.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``clip`` is not positive or ``zero`` not one of -1, 0.
    """

    form = WeightForm(scaled=False)

    @checked_layer(clip=optional(positive))
    def __init__(self, clip: float | None = 1.0, zero: int = -1) -> None:
        super().__init__(zero)
        self.clip = clip

    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight, of ``weight``'s shape."""
        return sign_weight(weight, self.clip, self.zero)

    def extra_repr(self) -> str:
        return f'clip={self.clip}, {super().extra_repr()}'


def _scaled_hard_tanh(weight: Tensor, clip: float) -> Tensor:
    return per_output_mean_abs(weight.detach()) * hard_tanh(weight, clip)


def _scaled_window(grad: Tensor, weight: Tensor, clip: float) -> Tensor:
    return per_output_mean_abs(weight.detach()) * window_gradient(grad, weight, clip)


def magnitude_aware_weight(weight: Tensor, clip: float = 1.0, zero: int = -1) -> Tensor:
    """Compute ``a sign(w)`` with ``a = mean|w|`` per output channel, also in the gradient.

    ``dy/dw = a if |w| <= clip else 0``. No gradient flows through ``a``. In
    :func:`~mmesbnn.binary.scaled_sign_weight` the gradient is without ``a``.

    Args:
        weight: Latent weight ``(C_o, ...)``.
        clip: Half width of the window that lets gradients pass, > 0. Default 1.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Liu et al., "Bi-Real Net" (2018), in the form of larq's ``MagnitudeAwareSign``.
    """
    return with_surrogate(
        weight,
        partial(scaled_signs, zero=zero),
        partial(_scaled_hard_tanh, clip=clip),
        partial(_scaled_window, clip=clip),
    )


@WEIGHT_BINARIZERS.add('magnitude_aware')
class MagnitudeAwareWeight(Binarizer, WeightBinarizer):
    """:func:`magnitude_aware_weight` as a module.

    Args:
        clip: Half width of the gradient's window, > 0. Default 1.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``clip`` is not positive or ``zero`` not one of -1, 0.
    """

    form = WeightForm(scaled=True)

    @checked_layer()
    def __init__(self, clip: float = 1.0, zero: int = -1) -> None:
        super().__init__(zero)
        self.clip = clip

    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight, of ``weight``'s shape."""
        return magnitude_aware_weight(weight, self.clip, self.zero)

    def extra_repr(self) -> str:
        return f'clip={self.clip}, {super().extra_repr()}'


@WEIGHT_BINARIZERS.add('learned_scale')
class LearnedScaleWeight(Binarizer, WeightBinarizer):
    """Weight binarizer ``a sign(w)`` with a learned ``a`` per output channel, initially 1.

    ``dL/da = sum g sign(w)`` per output channel, and ``dL/dw = a g if |w| <= clip else 0``.
    A binary layer fills in ``channels``. :class:`RankOneScale` learns scales per row and
    column of the output, too.

    Args:
        channels: Output channels ``C_o`` of the weight.
        clip: Half width of the gradient's window, > 0. Default 1.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``channels`` or ``clip`` is not positive, or ``zero`` not one of -1, 0;
            when called, if the weight has another number of output channels.

    Source: Bulat and Tzimiropoulos, "XNOR-Net++" (2019), case 1.
    """

    form = WeightForm(scaled=True)

    @checked_layer()
    def __init__(self, channels: int, clip: float = 1.0, zero: int = -1) -> None:
        super().__init__(zero)
        self.clip = clip
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight, of ``weight``'s shape."""
        if not is_traced(weight) and weight.shape[0] != self.scale.shape[0]:
            raise ValueError(
                f'{type(self).__name__}: the weight has {len(weight)} output channels, and the '
                f'scale has channels={len(self.scale)}'
            )
        scale = self.scale.view(-1, *[1] * (weight.dim() - 1)).to(weight.dtype)
        return scale * hard_tanh_sign(weight, self.clip, self.zero)

    def extra_repr(self) -> str:
        return f'{len(self.scale)}, clip={self.clip}, {super().extra_repr()}'


class RankOneScale(nn.Module):
    """Layer ``y[n, c, h, w] = a[c] b[h] g[w] x[n, c, h, w]`` with learned factors, initially 1.

    It follows a binary convolution whose weights have no scale (``'plain_sign'``). Maps must
    always have the same size.

    Args:
        channels: Channels of the map.
        height: Rows of the map in pixels.
        width: Columns of the map in pixels.

    Raises:
        ValueError: If an argument is not positive; when called, if the map has another size.

    Shape:
        ``(N, channels, height, width)`` to the same.

    Source: Bulat and Tzimiropoulos, "XNOR-Net++" (2019), case 4.
    """

    @checked_layer(height=positive_int, width=positive_int)
    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.of_channels = nn.Parameter(torch.ones(channels, 1, 1))
        self.of_rows = nn.Parameter(torch.ones(height, 1))
        self.of_columns = nn.Parameter(torch.ones(width))

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Scale the map ``x``."""
        check_maps(self, x, len(self.of_channels))
        size = (len(self.of_rows), len(self.of_columns))
        if not is_traced(x) and tuple(x.shape[-2:]) != size:
            raise ValueError(f'{type(self).__name__}: the map is {tuple(x.shape[-2:])}, not {size}')
        return x * (self.of_channels * self.of_rows * self.of_columns)
