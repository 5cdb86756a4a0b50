"""Rules by which the native kernels binarize latent weights themselves."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..native import PackedWeights, latent_gradient
from .forms import weight_form
from .native_mode import array_of, pack_latent
from .native_training import is_plain
from .weights import CentredSignWeight, ScaledSignWeight, TemperatureWeight, per_output_mean


class Binarization(NamedTuple):
    """Rule ``a sign(w - m)`` by which the kernels binarize a weight.

    Attributes:
        latent: Whether ``w`` is latent. An effective one is packed as it is.
        scaled: Whether ``a`` is ``mean|w|`` of a kernel. Else it is 1.
        centred: Whether ``m`` is the mean of a kernel. Else it is 0.
        clip: The gradient of ``w`` passes where ``|w - m| <= clip``.
    """

    latent: bool = True
    scaled: bool = False
    centred: bool = False
    clip: float = math.inf

    def limits(self, weight: Tensor) -> Tensor:
        """Return ``m`` of each kernel."""
        return per_output_mean(weight).flatten() if self.centred else weight.new_zeros(len(weight))

    def pack(self, weight: Tensor, groups: int, limits: Tensor) -> PackedWeights | None:
        """Pack a latent weight; return None where the kernels cannot."""
        return pack_latent(weight, groups, limits, self.scaled)

    def gradient(self, grad: Tensor, weight: Tensor, limits: Tensor | None) -> Tensor:
        """Return the gradient of ``w`` for that of its binary weight, which it overwrites.

        It is 0 beyond the clip. The gradient of the mean is subtracted.
        """
        if self.clip == math.inf or limits is None:
            return grad
        latent_gradient(
            grad.numpy(),
            array_of(weight.contiguous()),
            limits.numpy(),
            clip=self.clip,
            centred=self.centred,
            threads=torch.get_num_threads(),
        )
        return grad


_EFFECTIVE = Binarization(latent=False)


def binarization_of(layer: Any) -> Binarization:
    """Return the rule for a layer's weight; without one the kernels get the effective weight."""
    binarizer = layer.weight_binarizer
    if not layer.only_binarizes or not is_plain(binarizer) or getattr(binarizer, 'zero', 0) != -1:
        return _EFFECTIVE
    if type(binarizer) is ScaledSignWeight and not binarizer.attached:
        return Binarization(scaled=True, clip=1.0)
    if type(binarizer) is CentredSignWeight:
        return Binarization(scaled=True, centred=True, clip=1.0)
    if type(binarizer) is TemperatureWeight and binarizer.why_not_binary() is None:
        return Binarization()
    return _EFFECTIVE


def is_binary(binarizer: nn.Module) -> bool:
    """Return whether the effective weight has two values for each kernel, as far as it is known."""
    if weight_form(binarizer).is_real:
        return False
    reason = getattr(binarizer, 'why_not_binary', None)
    return not callable(reason) or reason() is None
