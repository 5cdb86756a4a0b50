"""What must survive when a tool lowers a model's precision, as ``model.half()`` does.

A binary weight is its sign, and the smallest latent weights are 0 in float16: their
sign would be lost. A binary convolution sums thousands of products, so the variance of
its output may exceed float16's largest number, and a temperature of 1e-9 is 0 there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or ``dtype`` if that is wider."""
    return torch.promote_types(dtype, torch.float32)


@torch.no_grad()
def keep_signs(rounded: Tensor, before: Tensor) -> None:
    """Give entries that were rounded to 0 the smallest number with their sign.

    Args:
        rounded: What a conversion made of ``before``; changed in place.
        before: The same tensor in a wider dtype.
    """
    if rounded.is_meta or before.is_meta or not rounded.is_floating_point():
        return
    info = torch.finfo(rounded.dtype)
    if info.bits >= torch.finfo(before.dtype).bits:
        return
    lost = (rounded == 0) & (before != 0).to(rounded.device)
    smallest = torch.tensor(
        info.smallest_normal * info.eps, dtype=rounded.dtype, device=rounded.device
    )
    signed = smallest.copysign(before.to(rounded.device).sign().to(rounded.dtype))
    rounded.copy_(torch.where(lost, signed, rounded))


class KeepsSigns(nn.Module):
    """A layer whose latent ``weight`` counts by its signs, and what follows from that.

    The signs survive ``half()`` and the like. A checkpoint of the same network with
    another ``tau`` is refused. A batch norm cannot be fused into the layer: tools that
    try give it a bias, which raises a ``TypeError``.
    """

    weight: Tensor

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        found = state.get(f'{prefix}weight')
        if isinstance(found, Tensor):
            self._check_expansion(f'{prefix}weight', found)
        super()._load_from_state_dict(state, prefix, *args)

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__.get('_parameters', {}).get(name, value)
        if name == 'bias' and own is None and value is not None:
            raise TypeError(
                f'{type(self).__name__} was made without a bias and gets none later: a '
                'binary layer cannot be fused with a batch norm, since only the signs '
                'of its weight count'
            )
        super().__setattr__(name, value)

    def _check_expansion(self, name: str, found: Tensor) -> None:
        """Refuse what mmengine would print and go on without."""
        shape, own = tuple(found.shape), tuple(self.weight.shape)
        if shape != own and found.numel() == self.weight.numel():
            raise RuntimeError(
                f'size mismatch: {name} of the checkpoint is {shape}, the layer has '
                f'{own}: as many weights, so the checkpoint is of another tau or groups'
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        before = self.weight.data
        super()._apply(fn, *args, **kwargs)
        if self.weight.dtype != before.dtype:
            keep_signs(self.weight.data, before)
        return self


class KeepsFloat32(nn.Module):
    """A module whose parameters and buffers stay float32 under ``half()``."""

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.is_floating_point() and moved.dtype.itemsize < 4:
                return tensor.to(moved.device)
            return moved

        return super()._apply(move, *args, **kwargs)
