"""Binary weights as bits, eight weights in a byte."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Suffixes of the entries of a file that store a binary weight.
PARTS = BITS, SCALE = 'weight.bits', 'weight.scale'
#: Beginning of the entry ``format`` in the metadata of packed files of all versions.
PACKED = 'mmesbnn-packed-'


def pack_bits(weight: Tensor) -> Tensor:
    """Pack one bit per entry, 1 if positive, as uint8, least significant bit first."""
    positive = (weight.detach() > 0).cpu().numpy()
    return torch.from_numpy(np.packbits(positive, bitorder='little'))


def scales_of(weight: Tensor) -> Tensor | None:
    """Return the scales ``(C_o,)`` of a binary weight ``(C_o, ...)``; None if all are 1."""
    scales = weight.flatten(1).abs().amax(1)
    return None if (scales == 1).all() else scales


def parts_of(weight: Tensor) -> dict[str, Tensor]:
    """Return the entries of a file for a binary weight, by their suffix.

    Args:
        weight: Effective weight ``(C_o, ...)``. Scales that are all 1 are not stored.
    """
    weight = weight.detach()
    scales = scales_of(weight)
    return {BITS: pack_bits(weight), **({} if scales is None else {SCALE: scales})}


def unpack_bits(bits: Tensor, shape: torch.Size) -> Tensor:
    """Unpack the bits of :func:`pack_bits` to signs +1 or -1 in float32.

    Raises:
        ValueError: If ``bits`` is not a flat tensor of uint8, or if the number of bits does
            not match ``shape``.
    """
    if bits.dtype != torch.uint8:
        raise ValueError(f'bits of {bits.dtype}, not of torch.uint8')
    count = shape.numel()
    if bits.dim() != 1 or bits.numel() != -(-count // 8):
        raise ValueError(f'{bits.numel()} bytes of bits for {count} weights')
    flat = np.unpackbits(bits.cpu().numpy(), count=count, bitorder='little')
    return torch.from_numpy(flat).to(torch.float32).mul_(2).sub_(1).view(shape)
