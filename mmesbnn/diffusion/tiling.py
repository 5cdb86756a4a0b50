"""Images of any size for networks that want multiples of a number, or small ones."""

from __future__ import annotations

import torch
from torch import Tensor


def pad_reflect(image: Tensor, factor: int) -> Tensor:
    """Pad below and on the right to multiples of ``factor``, by reflection.

    The border pixel is not repeated (``torch``'s ``'reflect'``), however much wider the
    padding is than the image: it goes on to and fro. One pixel is repeated.

    Args:
        image: ``(..., H, W)``.
        factor: What height and width become multiples of.
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
    """Where tiles begin that cover ``length`` pixels and overlap at least so far.

    Args:
        length: Pixels to cover, a multiple of ``factor``.
        tile: Pixels of a tile, likewise.
        overlap: Least number of pixels that neighbours share.
        factor: All starts are multiples of it.
    """
    if length <= tile:
        return [0]
    step = (tile - overlap) // factor * factor
    return [*range(0, length - tile, step), length - tile]


def tile_weights(tile: int, overlap: int) -> Tensor:
    """How much a tile's pixels count, ``(tile,)``; it ramps over ``overlap``."""
    distance = torch.arange(1, tile + 1, dtype=torch.float64)
    distance = torch.minimum(distance, distance.flip(0))
    return (distance / (overlap + 1)).clamp(max=1)


def check_tiles(tile: int, overlap: int, factor: int) -> None:
    """Check the size of tiles.

    Raises:
        ValueError: If ``tile`` is not a positive multiple of ``factor``, or ``overlap`` is
            negative or leaves no multiple of ``factor`` to go on by.
    """
    if tile < factor or tile % factor:
        raise ValueError(
            f"tile_size={tile} must be a positive multiple of {factor}, the network's size_factor"
        )
    if not 0 <= overlap <= tile - factor:
        raise ValueError(
            f'tile_overlap={overlap} must be from 0 to {tile - factor}, that is '
            f'tile_size={tile} less {factor}'
        )
