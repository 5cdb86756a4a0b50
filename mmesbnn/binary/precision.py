"""Protection of signs and statistics when a model's precision is lowered.

A binary weight is the sign of a latent weight. The smallest latent weights would be 0 in
float16 after ``model.half()``, and their sign would be lost. A binary convolution sums
thousands of products, so the variance of its output may exceed float16's largest number.
A temperature of 1e-9 would be 0 in float16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float32, or float64 for float64."""
    # torch.promote_types is an operator, which takes time
    return torch.float64 if dtype == torch.float64 else torch.float32


def in_full_precision(x: Tensor) -> Tensor:
    """Convert half precision to float32, where its squares and logarithms are too coarse."""
    return x.to(wide_dtype(x.dtype))


@torch.no_grad()
def keep_signs(rounded: Tensor, before: Tensor) -> None:
    """Replace entries that were rounded to 0 by the smallest number with their sign.

    Args:
        rounded: Result of converting ``before`` to a narrower dtype; changed in place.
        before: Tensor before the conversion.
    """
    if rounded.is_meta or before.is_meta or not rounded.is_floating_point():
        return
    info = torch.finfo(rounded.dtype)
    if info.bits >= torch.finfo(before.dtype).bits:
        return
    # 8-bit floats have no arithmetic
    wide = before.to(rounded.device)
    kept = rounded.to(wide.dtype)
    lost = (kept == 0) & (wide != 0)
    rounded.copy_(torch.where(lost, wide.sign() * info.smallest_normal * info.eps, kept))


@torch.no_grad()
def _loses_gains(binarizer: nn.Module, before: Any, after: Any) -> bool:
    """Return whether a weight got a factor per channel that is lost when it is binarized."""
    known = all(type(x) in (Tensor, nn.Parameter) and not x.is_meta for x in (before, after))
    # a channel of one weight has every value by some factor
    if not known or before.shape != after.shape or before[:1].numel() < 2:
        return False
    before, after = before.double(), after.to(before.device).double()
    axes = tuple(range(1, before.dim()))
    gains = (before * after).sum(axes, keepdim=True) / before.square().sum(axes, keepdim=True)
    if torch.allclose(gains, torch.ones_like(gains)) or not torch.allclose(gains * before, after):
        return False
    return not torch.allclose(binarizer(after), gains * binarizer(before), rtol=1e-4, atol=1e-6)


class KeepsSigns(nn.Module):
    """Base of layers in which only the signs of the latent ``weight`` count.

    The signs survive ``half()`` and similar conversions, and loading a checkpoint of a wider
    dtype. Loading a checkpoint of the same network with another ``tau`` raises an error. A
    batch norm cannot be fused into the layer: a tool that tries adds or replaces a bias, and
    this raises a ``TypeError``. Only a layer that has a bias, and whose scales take the gains of
    the norm, can be fused.
    """

    weight: Tensor
    weight_binarizer: nn.Module
    _ignores_gains = False

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        found = state.get(f'{prefix}weight')
        if isinstance(found, Tensor):
            self._check_expansion(f'{prefix}weight', found)
        super()._load_from_state_dict(state, prefix, *args)
        own = self.weight.data
        if isinstance(found, Tensor) and found.is_floating_point() and found.shape == own.shape:
            keep_signs(own, found)

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__.get('_parameters', {}).get(name, value)
        if name == 'bias' and own is None and value is not None:
            raise TypeError(
                f'{type(self).__name__} was made without a bias, and a bias cannot be '
                'added later: a binary layer cannot be fused with a batch norm, because '
                'only the signs of its weight count'
            )
        if name == 'bias' and value is not None and self._ignores_gains:
            raise TypeError(
                f'{type(self).__name__} cannot be fused with a batch norm, because its '
                f'{type(self.weight_binarizer).__name__} ignores the gains of the norm: only the '
                'signs of its weight count'
            )
        super().__setattr__(name, value)
        if name == 'weight' and own is not value and self._parameters.get('bias') is not None:
            self._ignores_gains = _loses_gains(self.weight_binarizer, own, value)

    def _check_expansion(self, name: str, found: Tensor) -> None:
        """Raise an error on another expansion; mmengine would only print a warning."""
        shape, own = tuple(found.shape), tuple(self.weight.shape)
        if shape != own and found.numel() == self.weight.numel():
            raise RuntimeError(
                f'size mismatch: {name} of the checkpoint is {shape}, the layer has '
                f'{own}: the number of weights is the same, so the checkpoint has another '
                'tau or groups'
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        before = self.weight.data
        super()._apply(fn, *args, **kwargs)
        if self.weight.dtype != before.dtype:
            keep_signs(self.weight.data, before)
        return self


class KeepsFloat32(nn.Module):
    """Base of modules whose parameters and buffers stay float32 under ``half()``."""

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.is_floating_point() and moved.dtype.itemsize < 4:
                return tensor.to(moved.device)
            return moved

        return super()._apply(move, *args, **kwargs)
