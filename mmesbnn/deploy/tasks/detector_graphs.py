"""Detectors as functions from images to boxes and scores, without suppression.

mmdet's own ``predict`` works on lists of images with Python's loops and ends in
non-maximum suppression, so it cannot be traced into a graph of fixed shapes. What is
here gives all candidates; the runner (or ``numpy``) drops and suppresses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.manifest import ExportError

#: Names of a detector's outputs, the last one of heads that have it.
OUTPUTS = ('boxes', 'scores', 'factors')


def _rows(maps: list[Tensor], width: int) -> Tensor:
    """``(N, A width, H, W)`` of every level, as ``(N, K, width)``."""
    # shape[0] stays open in a trace, len() does not
    return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width) for x in maps], 1)


class OneStageGraph(nn.Module):
    """All boxes of a one-stage detector and their scores.

    For heads with the interface of mmdet's ``BaseDenseHead``: anchors or points on all
    levels, class scores, box codes, and maybe a centerness. Scores are multiplied with
    it once ``score_thr`` and ``nms_pre`` have chosen among them, so it is an output.

    Args:
        detector: A ``SingleStageDetector``.

    Shape:
        ``(N, 3, H, W)`` to boxes ``(N, K, 4)`` in pixels, scores ``(N, K, classes)``,
        and the factors ``(N, K)`` of a head with a centerness.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        self.levels: list[int] = []

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect on ``images``, normalised."""
        head = self.detector.bbox_head
        outputs = head(self.detector.extract_feat(images))
        scores, codes = list(outputs[0]), list(outputs[1])
        factors = list(outputs[2]) if len(outputs) > 2 else None
        sizes = [tuple(map(int, level.shape[-2:])) for level in scores]
        priors = head.prior_generator.grid_priors(sizes, dtype=images.dtype, device='cpu')
        self.levels = [len(level) for level in priors]
        values = _rows(scores, head.cls_out_channels)
        if head.use_sigmoid_cls:
            values = values.sigmoid()
        else:
            values = values.softmax(-1)[..., :-1]
        boxes = self._decode(torch.cat(priors), _rows(codes, 4))
        if factors is None:
            return boxes, values
        return boxes, values, _rows(factors, 1)[..., 0].sigmoid()

    def _decode(self, priors: Tensor, codes: Tensor) -> Tensor:
        """Mmdet's coder, for a batch."""
        batch = priors.expand(codes.shape[0], *priors.shape)
        boxes = self.detector.bbox_head.bbox_coder.decode(
            batch.reshape(-1, priors.shape[-1]), codes.reshape(-1, 4)
        )
        boxes = getattr(boxes, 'tensor', boxes)
        return boxes.reshape(codes.shape[0], -1, 4)


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` best of ``(K,)``, all if there are fewer."""
    return scores.topk(min(count, int(scores.shape[0])))


class TwoStageGraph(nn.Module):
    """Proposals, and all boxes of a two-stage detector on them.

    The proposals are a fixed number, ``max_per_img`` of the RPN: where suppression
    leaves fewer, the rest are 0, boxes and scores. One image at a time.

    Args:
        detector: A ``TwoStageDetector`` with a ``StandardRoIHead``.

    Attributes:
        one_image: True: batches cannot be left open.
        unordered: True: rows are proposals, sorted by their scores.

    Shape:
        ``(1, 3, H, W)`` to boxes ``(1, K, classes, 4)`` in pixels, or ``(1, K, 4)``
        where the classes share one, and scores ``(1, K, classes)``.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        self.levels: list[int] | None = None
        self.one_image = True
        self.unordered = True

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Detect on ``images``, normalised."""
        size = tuple(map(int, images.shape[-2:]))
        features = self.detector.extract_feat(images)
        boxes, valid = self._propose(features, size)
        boxes = boxes * valid[:, None]  # not any of those that were suppressed
        head = self.detector.roi_head
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
        pooled = self._pool(features, rois)
        if head.with_shared_head:
            pooled = head.shared_head(pooled)
        scores, codes = head.bbox_head(pooled)
        scores = scores.softmax(-1)[:, :-1] * valid[:, None]
        decoded = self._decode(boxes, codes, size)
        kept = valid.reshape(-1, *[1] * (decoded.ndim - 1))
        return (decoded * kept)[None], scores[None]

    def _propose(self, features: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        import torchvision

        rpn = self.detector.rpn_head
        cfg = self.detector.test_cfg.rpn
        outputs = rpn(features)
        levels = [tuple(map(int, level.shape[-2:])) for level in outputs[0]]
        priors = rpn.prior_generator.grid_priors(levels, dtype=outputs[0][0].dtype, device='cpu')
        found: list[Tensor] = []
        values: list[Tensor] = []
        indices: list[Tensor] = []
        for i, (score, code, prior) in enumerate(zip(*outputs[:2], priors)):
            score = _rows([score], rpn.cls_out_channels)[0]
            score = score.sigmoid() if rpn.use_sigmoid_cls else score.softmax(-1)
            value, best = _best(score[:, 0], cfg.nms_pre)
            box = rpn.bbox_coder.decode(prior[best], _rows([code], 4)[0][best], max_shape=size)
            found.append(box)
            values.append(value)
            indices.append(torch.full_like(value, float(i)))
        boxes, scores = torch.cat(found), torch.cat(values)
        sides = boxes[:, 2:] - boxes[:, :2]
        least = max(cfg.get('min_bbox_size', 0), 0)
        scores = torch.where((sides > least).all(-1), scores, torch.zeros_like(scores))
        # levels do not suppress each other: they lie apart
        apart = boxes + torch.cat(indices)[:, None] * (max(size) + 1)
        kept = torchvision.ops.nms(apart, scores, cfg.nms.iou_threshold)
        alive = torch.zeros_like(scores).scatter(0, kept, torch.ones_like(scores[kept]))
        value, best = _best(alive * scores, cfg.max_per_img)
        return boxes[best], (value > 0).to(boxes.dtype)

    def _pool(self, features: Any, rois: Tensor) -> Tensor:
        import torchvision

        extractor = self.detector.roi_head.bbox_roi_extractor
        maps = features[: extractor.num_inputs]
        pooled = []
        for x, layer, stride in zip(maps, extractor.roi_layers, extractor.featmap_strides):
            pooled.append(
                torchvision.ops.roi_align(
                    x,
                    rois,
                    tuple(layer.output_size),
                    1 / stride,
                    layer.sampling_ratio,
                    layer.aligned,
                )
            )
        if len(pooled) == 1:
            return pooled[0]
        level = extractor.map_roi_levels(rois, len(pooled))
        chosen = torch.zeros_like(pooled[0])
        for i, x in enumerate(pooled):
            chosen = torch.where((level == i)[:, None, None, None], x, chosen)
        return chosen

    def _decode(self, boxes: Tensor, codes: Tensor, size: tuple[int, int]) -> Tensor:
        head = self.detector.roi_head.bbox_head
        count = 1 if head.reg_class_agnostic else head.num_classes
        spread = boxes[:, None].expand(-1, count, 4).reshape(-1, 4)
        decoded = head.bbox_coder.decode(spread, codes.reshape(-1, 4), max_shape=size)
        decoded = getattr(decoded, 'tensor', decoded)
        return decoded if count == 1 else decoded.reshape(-1, count, 4)


def detector_graph(detector: nn.Module) -> nn.Module:
    """The graph of a detector of mmdet.

    Raises:
        ExportError: If it is neither one-stage with a dense head nor two-stage with a
            single head on proposals.
    """
    if getattr(detector, 'with_mask', False):
        raise ExportError('masks are not exported, only boxes')
    if hasattr(detector, 'roi_head'):
        if hasattr(detector.roi_head, 'num_stages'):
            raise ExportError('cascades of heads on proposals are not exported')
        return TwoStageGraph(detector)
    head = getattr(detector, 'bbox_head', None)
    if not all(hasattr(head, name) for name in ('prior_generator', 'bbox_coder')):
        raise ExportError(
            f'{type(detector).__name__} with {type(head).__name__} is not exported; '
            'known are one-stage detectors with anchors or points, and two-stage ones'
        )
    return OneStageGraph(detector)
