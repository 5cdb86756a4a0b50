"""Make a two-stage detector process its largest number of regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..binary.arguments import MODULE
from ..checks import checked, positive_int, sequence

#: Overlap that no two boxes exceed, so that suppression keeps all of them.
NEVER = 1.0


@checked(model=MODULE, shape=sequence(positive_int, length=3))
def most_regions(model: nn.Module, shape: Sequence[int]) -> tuple[int, dict[str, Any]]:
    """Make a two-stage detector process its largest number of regions for any input.

    The number of regions in the second stage depends on the image: suppression keeps at
    most ``test_cfg.rpn.max_per_img``. Papers count operations for this maximum. The
    function therefore turns suppression off in ``model``. Do not use the model for
    anything else afterwards.

    Args:
        model: Any model.
        shape: Channels, height and width of its input.

    Returns:
        Number of regions, 0 if ``model`` is not a two-stage detector; and keyword
        arguments of ``forward`` for one image.
    """
    heads = _region_heads(model)
    for head in heads:
        head.test_cfg.nms.iou_threshold = NEVER
        head.test_cfg.min_bbox_size = -1
    regions = heads[0].test_cfg.max_per_img if heads else 0
    return regions, forward_arguments(model, shape)


def forward_arguments(model: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    """Return what ``forward`` needs beside an image of ``shape``: for some detectors its sizes."""
    # detectors with a transformer, such as DETR, also read the sizes of images
    if _region_heads(model) or any(hasattr(x, 'forward_transformer') for x in _parts(model)):
        return dict(data_samples=[_sample(shape[-2:])])
    return {}


def _parts(model: nn.Module) -> list[Any]:
    """Return a model, and the student and the teacher of mmdet's semi-supervised detectors."""
    return [model, *(getattr(model, name, None) for name in ('student', 'teacher'))]


def _region_heads(model: nn.Module) -> list[Any]:
    """Return the heads that propose regions to a second stage."""
    return [x.rpn_head for x in _parts(model) if hasattr(x, 'rpn_head') and hasattr(x, 'roi_head')]


def _sample(size: Sequence[int]) -> Any:
    """Return what mmdet's detectors read about an image of ``size`` without padding."""
    from mmdet.structures import DetDataSample

    names = ('img_shape', 'pad_shape', 'ori_shape', 'batch_input_shape')
    return DetDataSample(metainfo=dict.fromkeys(names, tuple(size)) | {'scale_factor': (1.0, 1.0)})
