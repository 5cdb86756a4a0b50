"""Check that the values of a weight are binary."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import Rule, checked

NO_VALUES = 'its weights are on the device meta, without values'
WEIGHT = Rule('a tensor (C_o, ...)', lambda x: isinstance(x, Tensor) and x.dim() > 1)


@checked(weight=WEIGHT)
def check_weight(weight: Tensor) -> str | None:
    """Return a sentence that says why an effective weight is not binary, else None.

    Every output channel may hold only the two values ``-a`` and ``+a``. Each channel can
    have another ``a``, and a channel may have one sign only. NaN is not allowed.

    Args:
        weight: Effective weight ``(C_o, ...)``.
    """
    if weight.is_meta:
        return NO_VALUES
    rows = weight.detach().flatten(1)
    bad = ~torch.isfinite(rows).all(1)
    if bad.any():
        channel = int(bad.nonzero()[0])
        value = rows[channel][~torch.isfinite(rows[channel])][0].item()
        return f'weights hold {value} in output channel {channel}'
    ordered = rows.sort(dim=1).values
    counts = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
    most = int(counts.max())
    if most > 2:
        return f'weights take {most} values in output channel {int(counts.argmax())}'
    uneven = (counts == 2) & (ordered[:, 0] != -ordered[:, -1])
    if uneven.any():
        channel = int(uneven.nonzero()[0])
        low, high = ordered[channel, 0].item(), ordered[channel, -1].item()
        return (
            f'weights take the values {low:g} and {high:g} in output channel '
            f'{channel}, not -a and +a'
        )
    return None


def signs_and_scales(weight: Tensor, *, looks: bool) -> tuple[Tensor, Tensor] | None:
    """Return ``s`` and ``a`` with ``weight = a s``, where ``s`` is +-1 if the weight is binary.

    ``a`` is the magnitude of a channel, 1 if its entries have several, so such a channel does not
    change. It is a constant for gradients: those of the weight come through ``s``, so they are
    the ones of ``a s``.

    Args:
        weight: Effective weight ``(C_o, ...)``.
        looks: Look at the first and the last entry of each channel, to save the division of a
            weight that is not binary or has no scales. What is traced has no entries to look at.

    Returns:
        ``s`` of the shape of ``weight``, and ``a > 0``, ``(C_o,)``. None if the weight is
        empty, or was looked at in vain.
    """
    if not weight.numel():
        return None
    rows = weight.detach().flatten(1)
    if looks:
        first, last = rows[:, 0].abs(), rows[:, -1].abs()
        if not torch.equal(first, last) or bool((first == 1).all()):
            return None
    magnitudes = rows.abs()
    least, most = magnitudes.amin(1), magnitudes.amax(1)
    scales = torch.where((least == most) & (most > 0) & most.isfinite(), most, 1)
    return weight / scales.view(-1, *[1] * (weight.dim() - 1)), scales
