"""Padding and tiling of images for networks with limits on their input size."""

from __future__ import annotations

import torch
from torch import Tensor

#: Default of the smallest number of pixels that neighbouring tiles share.
TILE_OVERLAP = 64


def pad_reflect(image: Tensor, factor: int) -> Tensor:
    """Pad below and on the right to multiples of ``factor``, by reflection.

    The border pixel is not repeated, as in torch's ``'reflect'``. If the padding is wider
    than the image, the reflection repeats as often as needed. A side of one pixel is
    replicated.

    Args:
        image: ``(..., H, W)``.
        factor: Height and width of the result are multiples of this number.
    """
    for dim in (-2, -1):
        length = image.shape[dim]
        wanted = -(-length // factor) * factor
        if wanted > length:
            index = torch.arange(wanted, device=image.device)
            index = index % max(2 * length - 2, 1)
            index = torch.minimum(index, (2 * length - 2 - index).abs())
            image = image.index_select(dim, index)
    return image


def tile_starts(length: int, tile: int, overlap: int, factor: int) -> list[int]:
    """Return the start pixels of tiles that cover ``length`` pixels.

    Args:
        length: Pixels to cover, a multiple of ``factor``.
        tile: Pixels of a tile, a multiple of ``factor``.
        overlap: Smallest number of pixels that neighbouring tiles share.
        factor: All starts are multiples of this number.
    """
    if length <= tile:
        return [0]
    step = (tile - overlap) // factor * factor
    return [*range(0, length - tile, step), length - tile]


def tile_weights(tile: int, overlap: int) -> Tensor:
    """Return the weights ``(tile,)`` of a tile's pixels; they ramp over ``overlap``."""
    distance = torch.arange(1, tile + 1, dtype=torch.float64, device='cpu')
    distance = torch.minimum(distance, distance.flip(0))
    return (distance / (overlap + 1)).clamp(max=1)


def check_tiles(tile: int, overlap: int, factor: int) -> None:
    """Check the size of tiles.

    Raises:
        ValueError: If ``tile`` is not a positive multiple of ``factor``, if ``overlap`` is
            negative, or if it is more than ``tile - factor``.
    """
    if tile < factor or tile % factor:
        raise ValueError(
            f"tile_size={tile} must be a positive multiple of {factor}, the network's size_factor"
        )
    if not 0 <= overlap <= tile - factor:
        raise ValueError(
            f'tile_overlap={overlap} must be from 0 to {tile - factor}, which is '
            f'tile_size={tile} minus {factor}'
        )
