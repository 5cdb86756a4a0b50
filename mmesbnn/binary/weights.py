"""Weight binarizers: they turn a layer's latent weight into its effective weight.

The optimizer updates the latent weight. The binary operator multiplies with the
effective weight. The first axis of a weight is the output channel; scales are per output
channel.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import positive
from .arguments import checked_layer
from .entries import WEIGHT_BINARIZERS
from .estimators import window_gradient
from .forms import WeightForm
from .precision import KeepsFloat32, wide_dtype
from .signs import Binarizer, finite, hard_tanh, identity_sign, is_composed, sign, with_surrogate

#: Below this temperature BNext's weights are exactly their signs (the T/S/M/L networks;
#: BNext-18 uses 1e-5).
BINARY_BELOW = 1e-7


def temperature_weight(
    weight: Tensor, temperature: Tensor, binary_below: float = BINARY_BELOW, zero: int = -1
) -> Tensor:
    """Binarize weights gradually: they approach their signs as a temperature falls.

    ``sign(w)`` if ``T < binary_below``, else ``clamp(w / max(T, 1e-8), -1, 1)``. The
    gradient with respect to ``w`` is the identity, without a mask.

    Args:
        weight: Latent weight of any shape.
        temperature: Tensor with one entry.
        binary_below: Temperature under which the weight is its sign. Default 1e-7.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Guo et al., "BNext" (2022). The formula is that of its code.
    """
    compute = partial(_hardened, temperature=temperature, binary_below=binary_below, zero=zero)
    return with_surrogate(weight, compute, finite)


def _hardened(weight: Tensor, temperature: Tensor, binary_below: float, zero: int) -> Tensor:
    weight = weight.detach()
    # the lowest temperatures would be 0 in float16
    wide = wide_dtype(weight.dtype)
    temperature = temperature.to(wide)
    hard = temperature < binary_below
    if _is_known(hard) and hard:
        return sign(weight, zero)
    value = (weight.to(wide) / temperature.clamp(min=1e-8)).clamp_(-1, 1)
    if not _is_known(hard):
        value = torch.where(hard, sign(weight, zero).to(wide), value)
    return value.to(weight.dtype)


def _is_known(x: Tensor) -> bool:
    """Return whether Python may read a value: it is on the CPU, and no graph is recorded."""
    if torch.jit.is_tracing() or is_composed():  # type: ignore[attr-defined]
        return False
    return type(x) is Tensor and x.device.type == 'cpu'


def per_output_mean_abs(weight: Tensor) -> Tensor:
    """Compute the mean of ``|w|`` per output channel, shape ``(C_o, 1, ...)``."""
    magnitudes = weight.abs().to(wide_dtype(weight.dtype))
    mean = magnitudes.mean(dim=tuple(range(1, weight.dim())), keepdim=True)
    return mean.to(weight.dtype)


def scaled_sign_weight(weight: Tensor, attached: bool = False, zero: int = -1) -> Tensor:
    """Compute ``mean|w| * sign(w)`` with the mean per output channel.

    With ``attached=False`` (XNOR-Net as ReActNet trains it) the scale carries no
    gradient and ``dL/dw = dL/dw_eff`` where ``|w| <= 1``, else 0. With
    ``attached=True`` (BiDet) gradients also flow through the mean, and the sign
    passes them unmasked: ``dL/dw = a g + sign(w) mean(g sign(w))``.

    Args:
        weight: Latent weight ``(C_o, ...)``.
        attached: Whether the scale carries a gradient. Default False.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: Rastegari et al., "XNOR-Net" (2016), eq. 6; ReActNet; BiDet.
    """
    if attached:
        return per_output_mean_abs(weight) * identity_sign(weight, zero)
    return with_surrogate(
        weight, partial(scaled_signs, zero=zero), hard_tanh, partial(window_gradient, clip=1.0)
    )


def scaled_signs(weight: Tensor, zero: int) -> Tensor:
    """Compute ``mean|w| * sign(w)`` with the mean per output channel."""
    return per_output_mean_abs(weight) * sign(weight, zero)


def centred_sign_weight(weight: Tensor, zero: int = -1) -> Tensor:
    """Compute ``mean|w| * sign(w - mean(w))`` with both means per output channel.

    The scale carries no gradient. The gradient of the centred weight passes where that
    weight is in ``[-1, 1]``.

    Args:
        weight: Latent weight ``(C_o, ...)``.
        zero: Value of sign(0), -1 or 0. Default -1.

    Source: linear layers of Le and Li, "BinaryViT", arXiv 2306.16678.
    """
    return with_surrogate(
        weight, partial(_centred_signs, zero=zero), _centred_hard_tanh, _centred_gradient
    )


def per_output_mean(weight: Tensor) -> Tensor:
    """Compute the mean of ``w`` per output channel, ``(C_o, 1, ...)``, in float32 at least."""
    # a mean rounded to the dtype of the weights would change signs of weights near it
    wide = weight.to(wide_dtype(weight.dtype))
    return wide.mean(dim=tuple(range(1, weight.dim())), keepdim=True)


def _centred(weight: Tensor) -> Tensor:
    return weight.to(wide_dtype(weight.dtype)) - per_output_mean(weight)


def _centred_signs(weight: Tensor, zero: int) -> Tensor:
    return per_output_mean_abs(weight) * sign(_centred(weight), zero).to(weight.dtype)


def _centred_hard_tanh(weight: Tensor) -> Tensor:
    return hard_tanh(_centred(weight)).to(weight.dtype)


def _centred_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    centred = _centred(weight)
    inside = window_gradient(grad.to(centred.dtype), centred, clip=1.0)
    mean = inside.mean(dim=tuple(range(1, weight.dim())), keepdim=True)
    return (inside - mean).to(weight.dtype)


class WeightBinarizer(nn.Module):
    """Base of weight binarizers. It is not needed: any module with a ``form`` is one.

    Attributes:
        form: Values of the effective weight.
    """

    form = WeightForm()

    def why_not_binary(self) -> str | None:
        """Return a sentence that says why weights are not binary yet, None if they are."""
        return None


@WEIGHT_BINARIZERS.add('temperature')
class TemperatureWeight(KeepsFloat32, Binarizer, WeightBinarizer):
    """:func:`temperature_weight` as a module; the temperature is a buffer.

    The buffer is part of the state dict, as in the published files. It starts at 1.
    Only :class:`mmesbnn.engine.hooks.TemperatureHook` lowers it; ``forward`` never does.
    Without the hook the weights therefore stay real. The buffer stays float32 when the
    model becomes float16, because float16 has no number that small.

    Args:
        binary_below: Temperature under which the weight is its sign. Default 1e-7.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``zero`` is not one of -1, 0.
    """

    form = WeightForm(scaled=False)
    temperature: Tensor

    @checked_layer(binary_below=positive)
    def __init__(self, binary_below: float = BINARY_BELOW, zero: int = -1) -> None:
        super().__init__(zero)
        self.binary_below = binary_below
        self.register_buffer('temperature', torch.ones(1))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight, of ``weight``'s shape."""
        return temperature_weight(weight, self.temperature, self.binary_below, self.zero)

    def why_not_binary(self) -> str | None:
        """Return a sentence with the temperature if that is too high, else None."""
        temperature = float(self.temperature.flatten()[0])
        if temperature < self.binary_below:  # a NaN is not
            return None
        given = f'its temperature is {temperature:.3g}'
        return f'{given}, but weights are signs only below {self.binary_below:.3g}'

    def extra_repr(self) -> str:
        return f'binary_below={self.binary_below}, {super().extra_repr()}'


@WEIGHT_BINARIZERS.add('scaled_sign')
class ScaledSignWeight(Binarizer, WeightBinarizer):
    """:func:`scaled_sign_weight` as a module.

    Args:
        attached: Whether the scale carries a gradient. Default False.
        zero: Value of sign(0), -1 or 0. Default -1.

    Raises:
        ValueError: If ``zero`` is not one of -1, 0.
    """

    form = WeightForm(scaled=True)

    @checked_layer()
    def __init__(self, attached: bool = False, zero: int = -1) -> None:
        super().__init__(zero)
        self.attached = attached

    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight, of ``weight``'s shape."""
        return scaled_sign_weight(weight, self.attached, self.zero)

    def extra_repr(self) -> str:
        return f'attached={self.attached}, {super().extra_repr()}'


@WEIGHT_BINARIZERS.add('centred_sign')
class CentredSignWeight(Binarizer, WeightBinarizer):
    """:func:`centred_sign_weight` as a module; arguments as :class:`Binarizer`."""

    form = WeightForm(scaled=True)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight, of ``weight``'s shape."""
        return centred_sign_weight(weight, self.zero)


@WEIGHT_BINARIZERS.add('real')
class RealWeight(WeightBinarizer):
    """Weight binarizer that returns the latent weight: the weights stay real.

    The first stage of ReActNet's training uses it, with binary activations.
    ``check_binary`` reports such layers.
    """

    form = WeightForm(values=None, scaled=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight``."""
        return weight


@WEIGHT_BINARIZERS.add('fixed')
class FixedWeight(WeightBinarizer):
    """Weight binarizer for a weight that is already ``-a`` or ``+a`` per output channel.

    It returns the weight unchanged. :func:`mmesbnn.deploy.load_packed` uses it to restore
    weights from their bits and scales, because recomputing a scale from such a weight
    would round it. It does not keep a weight binary in training.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight``."""
        return weight


def build_weight_binarizer(spec: Any, channels: int | None = None) -> nn.Module:
    """Build a weight binarizer.

    Args:
        spec: Name of a binarizer, such as ``'temperature'``; a dict with ``type`` and
            arguments, such as ``dict(type='scaled_sign', attached=True)``; or a module, which
            is copied. The type is a name of ``docs/binarizers.md`` or of
            :data:`mmesbnn.registry.WEIGHT_BINARIZERS`, or a class.
        channels: Output channels of the weight, for classes that have an argument
            ``channels``. Default None: unknown.

    Raises:
        ValueError: If the name is unknown, or the class does not take the arguments.
    """
    known = {} if channels is None else {'channels': channels}
    return WEIGHT_BINARIZERS.build(spec, **known)
