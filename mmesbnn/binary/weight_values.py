"""Check that the values of a weight are binary."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import Rule, checked

WEIGHT = Rule('a tensor (C_o, ...)', lambda x: isinstance(x, Tensor) and x.dim() > 1)


@checked(weight=WEIGHT)
def check_weight(weight: Tensor) -> str | None:
    """Return a sentence that says why an effective weight is not binary, else None.

    Every output channel may hold only the two values ``-a`` and ``+a``. Each channel can
    have another ``a``, and a channel may have one sign only. NaN is not allowed.

    Args:
        weight: Effective weight ``(C_o, ...)``.
    """
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
