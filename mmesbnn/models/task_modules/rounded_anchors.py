"""The anchors of the first Faster R-CNN, and so of BiDet's."""

from __future__ import annotations

import torch
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import Tensor


class RoundedAnchorGenerator(AnchorGenerator):
    """Anchors whose sides are rounded before they are scaled.

    Of base size ``s`` and ratio ``r`` (height by width) the sides are ``w = round(s /
    sqrt(r))`` and ``h = round(w r)``, times the scales, around ``(s - 1) / 2``; a box
    from ``x_1`` to ``x_2`` is ``x_2 - x_1 + 1`` wide. With ``s = 16`` they are 23x12,
    16x16 and 11x22. mmdet's ``LegacyAnchorGenerator`` does not round the sides: it
    makes 181x91 where this makes 184x96.

    Takes the arguments of mmdet's ``AnchorGenerator``, of which it ignores
    ``center_offset`` and ``scale_major``.

    Source: the published code of Ren et al., "Faster R-CNN" (2015), and of BiDet.
    """

    def gen_single_level_base_anchors(
        self,
        base_size: float,
        scales: Tensor,
        ratios: Tensor,
        center: tuple[float, float] | None = None,
    ) -> Tensor:
        """Anchors of the first pixel, ``(ratios x scales, 4)``, ratio by ratio."""
        widths = (base_size / ratios.sqrt()).round()
        heights = (widths * ratios).round()
        half_width, half_height = (
            (side[:, None] * scales[None] - 1).flatten() / 2 for side in (widths, heights)
        )
        x, y = center or ((base_size - 1) / 2,) * 2
        return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)
