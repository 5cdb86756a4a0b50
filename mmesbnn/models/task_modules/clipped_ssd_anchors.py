"""SSD's anchors, clipped to the image's size as in its published code."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.task_modules.prior_generators import SSDAnchorGenerator
from torch import Tensor

from ...checks import checked, positive_int


class ClippedSSDAnchorGenerator(SSDAnchorGenerator):
    """mmdet's ``SSDAnchorGenerator`` with centres and sides clipped to the image's size.

    ``(x, y, w, h) = min((x, y, w, h), input_size)`` for centre and sides. In SSD300 this
    changes the widest and the highest anchor of the last two maps. It also changes the
    last row and column of the 10x10 map, whose centres are 4 pixels outside the image.

    Args:
        *args: As ``SSDAnchorGenerator``'s.
        input_size: Width and height of the image in pixels. Default 300.
        **kwargs: As ``SSDAnchorGenerator``'s.

    Source: published code of Liu et al., "SSD" (2016), and of BiDet.
    """

    @checked(input_size=positive_int)
    def __init__(self, *args: Any, input_size: int = 300, **kwargs: Any) -> None:
        self.input_size = input_size
        super().__init__(*args, input_size=input_size, **kwargs)

    def single_level_grid_priors(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the anchors of one map, ``(H W A, 4)`` corners; arguments as mmdet's."""
        low, high = super().single_level_grid_priors(*args, **kwargs).chunk(2, -1)
        centre = ((low + high) / 2).clamp(max=self.input_size)
        half = (high - low).clamp(max=self.input_size) / 2
        return torch.cat([centre - half, centre + half], -1)
