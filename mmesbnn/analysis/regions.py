"""Make a two-stage detector process its largest number of regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..binary.arguments import MODULE
from ..checks import checked, positive_int, sequence

#: Overlap that no two boxes exceed, so that suppression keeps all of them.
NEVER = 1.0
#: Attributes of detectors that also read the sizes of images, such as DETR and MaskFormer.
_READERS = ('forward_transformer', 'panoptic_head')


@checked(model=MODULE, shape=sequence(positive_int, length=3))
def most_regions(model: nn.Module, shape: Sequence[int]) -> tuple[int, dict[str, Any]]:
    """Make a two-stage detector process its largest number of regions for any input.

    The number of regions in the second stage depends on the image: suppression keeps at
    most ``test_cfg.rpn.max_per_img``. Papers count operations for this maximum. The
    function therefore turns suppression off in ``model``. Do not use the model for
    anything else afterwards. Learned regions, as in Sparse R-CNN, are always equally many.

    Args:
        model: Any model.
        shape: Channels, height and width of its input.

    Returns:
        Number of regions, 0 if ``model`` is not a two-stage detector; and keyword
        arguments of ``forward`` for one image.
    """
    regions = [_most(head) for head in _region_heads(model)]
    return regions[0] if regions else 0, forward_arguments(model, shape)


def _most(head: Any) -> int:
    """Turn suppression off in a head, and return its largest number of regions."""
    if hasattr(head, 'num_proposals'):  # learned regions, which nothing suppresses
        head.init_weights()  # before it boxes can have negative sides, which mmcv refuses
        return head.num_proposals
    head.test_cfg.nms.iou_threshold = NEVER
    head.test_cfg.min_bbox_size = -1
    return head.test_cfg.max_per_img


def forward_arguments(model: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    """Return what ``forward`` needs beside an image of ``shape``: for some detectors its sizes."""
    if _region_heads(model) or any(hasattr(x, name) for x in _parts(model) for name in _READERS):
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
    from mmengine.structures import InstanceData

    names = ('img_shape', 'pad_shape', 'ori_shape', 'batch_input_shape')
    sample = DetDataSample(
        metainfo=dict.fromkeys(names, tuple(size)) | {'scale_factor': (1.0, 1.0)}
    )
    # heads of learned regions match objects before every stage
    sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    return sample
