"""A practically unlimited task of real images: random crops of bundled photographs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import checked, integer, positive_int
from .photographs import TEST, TRAIN, load_photograph

#: Photographs that come inside scikit-image and scikit-learn.
PHOTOGRAPHS = (*TRAIN, *TEST, 'retina')
#: Width and height of a region in crops. The last row of crops is held out.
REGION = 4


class Batch(NamedTuple):
    """Crops and their classes.

    Attributes:
        images: ``(N, 3, size, size)``, mean 0 in every channel and about unit deviation.
        labels: ``(N,)``, the region each comes from.
    """

    images: Tensor
    labels: Tensor


def _regions(side: int, shrink: int, count: int) -> Tensor:
    """Return the ``count`` squares of most contrast, ``(count, 3, side, side)``."""
    found = []
    for name in PHOTOGRAPHS:
        image = F.avg_pool2d(load_photograph(name).float() / 255, shrink)
        tiles = image.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4)
        found.append(tiles.flatten(0, 1))
    tiles = torch.cat(found)
    if count > len(tiles):
        raise ValueError(f'classes={count} must be at most {len(tiles)}, the number of regions')
    # the median over cells: one bright object in an empty sky is no contrast
    cell = max(side // 8, 2)  # a single pixel has no contrast
    cells = tiles.mean(1).unfold(1, cell, cell).unfold(2, cell, cell)
    contrast = cells.std((3, 4)).flatten(1).median(1).values
    return tiles[contrast.argsort(descending=True, stable=True)[:count].sort().values]


class Crops:
    """An endless supply of crops of photographs, the same on every machine for a seed.

    Photographs are cut into squares of ``4 size`` pixels, and the squares with most
    contrast are the classes. Training crops lie in the upper three quarters of a square,
    held-out ones in the rest: no pixel is in both. A crop is turned and mirrored, and its
    colours are mixed at random; its mean and contrast are taken away. So a region is
    known by its structure, and the same crop almost never comes again.

    Args:
        size: Height and width of a crop in pixels, at least 2. Default 16.
        shrink: Factor by which photographs are reduced first. Default 2.
        classes: How many squares. Default 100.
        device: Device on which crops are made. Default ``'cpu'``.

    Raises:
        ValueError: If a number is too small or there are not so many squares.
        ImportError: If scikit-learn or scikit-image is missing.
    """

    @checked(size=integer(2), shrink=positive_int, classes=positive_int)
    def __init__(
        self,
        size: int = 16,
        shrink: int = 2,
        classes: int = 100,
        device: str | torch.device = 'cpu',
    ) -> None:
        self.size, self.classes = size, classes
        regions = _regions(REGION * size, shrink, classes).to(device)
        # (class, row, column, channel, height, width), a view
        self._windows = regions.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 1, 4, 5)

    def draw(self, count: int, rng: torch.Generator, held_out: bool = False) -> Batch:
        """Cut ``count`` crops.

        Args:
            count: How many.
            rng: Source of randomness, on the CPU.
            held_out: Whether from the part that is never trained on. Default False.
        """
        size, last = self.size, (REGION - 1) * self.size
        whole: Any = dict(generator=rng, device='cpu')
        broken = dict(whole, dtype=torch.float32)
        labels = torch.randint(self.classes, (count,), **whole)
        rows = torch.randint(last - size + 1, (count,), **whole)
        if held_out:
            rows.fill_(last)
        columns = torch.randint(last + 1, (count,), **whole)
        flips = torch.rand(3, count, 1, 1, 1, **broken) < 0.5
        colours = torch.randn(count, 3, 3, **broken).mul_(0.2)
        colours = colours + torch.eye(3, dtype=torch.float32, device='cpu')
        device = self._windows.device
        labels, rows, columns, flips, colours = (
            x.to(device) for x in (labels, rows, columns, flips, colours)
        )
        x = self._windows[labels, rows, columns]
        for flip, turned in zip(flips, (lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.mT)):
            x = torch.where(flip, turned(x), x)
        x = torch.einsum('nij,njhw->nihw', colours, x)
        x = x - x.mean((2, 3), keepdim=True)
        # the offset keeps what is flat (sky) from becoming noise
        return Batch(x / (x.std((1, 2, 3), keepdim=True) + 0.02), labels)
