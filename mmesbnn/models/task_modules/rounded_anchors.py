"""Anchors of the original Faster R-CNN, which BiDet uses, too."""

from __future__ import annotations

import torch
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import Tensor


class RoundedAnchorGenerator(AnchorGenerator):
    """Generator of anchors whose sides are rounded before they are scaled.

    For a base size ``s`` and a ratio ``r`` (height by width) the sides are ``w = round(s /
    sqrt(r))`` and ``h = round(w r)``, times the scales. The centre is ``(s - 1) / 2``. A
    box from ``x_1`` to ``x_2`` is ``x_2 - x_1 + 1`` wide. With ``s = 16`` the boxes are
    23x12, 16x16 and 11x22. mmdet's ``LegacyAnchorGenerator`` does not round the sides: at
    scale 8 it gives 181x91, and this class gives 184x96.

    Takes the arguments of mmdet's ``AnchorGenerator``. It ignores ``center_offset`` and
    ``scale_major``.

    Source: published code of Ren et al., "Faster R-CNN" (2015), and of BiDet.
    """

    def gen_single_level_base_anchors(
        self,
        base_size: float,
        scales: Tensor,
        ratios: Tensor,
        center: tuple[float, float] | None = None,
    ) -> Tensor:
        """Return the anchors of the first pixel, ``(ratios x scales, 4)``, ratio by ratio."""
        widths = (base_size / ratios.sqrt()).round()
        heights = (widths * ratios).round()
        half_width, half_height = (
            (side[:, None] * scales[None] - 1).flatten() / 2 for side in (widths, heights)
        )
        x, y = center or ((base_size - 1) / 2,) * 2
        return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)
