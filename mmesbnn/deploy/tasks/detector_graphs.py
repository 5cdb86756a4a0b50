"""Detectors as functions from images to boxes and scores, without suppression.

mmdet's own ``predict`` works on lists of images with Python's loops and ends in non-maximum
suppression, so it cannot be traced into a graph of fixed shapes. A detector graph gives all
candidates; the runner drops and suppresses with ``numpy``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..runtime.manifest import ExportError

#: Names of a detector's outputs, the last one of heads that have it.
OUTPUTS = ('boxes', 'scores', 'factors')


@dataclass(frozen=True)
class Candidates:
    """Boxes that a detector chooses from.

    Attributes:
        boxes: ``(N, K, 4)`` in pixels, or ``(N, K, classes, 4)``.
        scores: ``(N, K, classes)``.
        factors: ``(N, K)``, factors of the scores, applied after ``score_thr`` and
            ``nms_pre`` have selected boxes; None for heads without factors.
        levels: Number of boxes of every level, in order; None where levels do not matter.
    """

    boxes: Tensor
    scores: Tensor
    factors: Tensor | None = None
    levels: list[int] | None = None

    def outputs(self) -> tuple[Tensor, ...]:
        """Return the tensors that :data:`OUTPUTS` names."""
        if self.factors is None:
            return self.boxes, self.scores
        return self.boxes, self.scores, self.factors


class DetectorGraph(nn.Module):
    """Base of detectors as functions from images to candidates.

    Args:
        detector: A detector of mmdet.

    Attributes:
        one_image: Whether it takes one image at a time.
        unordered: Whether rows are proposals, sorted by their scores.
    """

    one_image: ClassVar[bool] = False
    unordered: ClassVar[bool] = False

    detector: Any  # mmdet's modules do not say what they hold

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def candidates(self, images: Tensor) -> Candidates:
        """Detect on ``images``, ``(N, 3, H, W)``, normalised."""
        return self.detect(self.detector.extract_feat(images), _size_of(images))

    def detect(self, features: Any, size: tuple[int, int]) -> Candidates:
        """Detect on maps.

        Args:
            features: Maps of all levels, of the neck if there is one.
            size: Height and width of the images.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the candidates' tensors, see :data:`OUTPUTS`."""
        return self.candidates(images).outputs()


def takes_one_image(network: nn.Module) -> bool:
    """Return True if ``network`` is a detector graph for one image at a time."""
    return isinstance(network, DetectorGraph) and network.one_image


def has_unordered_rows(network: nn.Module) -> bool:
    """Return whether the rows of the network's outputs are proposals sorted by scores."""
    return isinstance(network, DetectorGraph) and network.unordered


def _size_of(images: Tensor) -> tuple[int, int]:
    """Return height and width as numbers, also in a trace."""
    return int(images.shape[-2]), int(images.shape[-1])


def _rows(maps: list[Tensor], width: int) -> Tensor:
    """Return maps ``(N, A width, H, W)`` of all levels as ``(N, K, width)``."""
    # shape[0] stays open in a trace, len() does not
    return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width) for x in maps], 1)


def _tensor(boxes: Any) -> Tensor:
    """Return the tensor in mmdet's box types."""
    return getattr(boxes, 'tensor', boxes)


class OneStageGraph(DetectorGraph):
    """All boxes of a one-stage detector and their scores.

    For heads with the interface of mmdet's ``BaseDenseHead``: anchors or points on all
    levels, class scores, box codes, and optionally a centerness.

    Args:
        detector: A ``SingleStageDetector``.

    Shape:
        ``(N, 3, H, W)`` to boxes ``(N, K, 4)`` in pixels, scores ``(N, K, classes)``,
        and the factors ``(N, K)`` of a head with a centerness.
    """

    def detect(self, features: Any, size: tuple[int, int]) -> Candidates:
        """Detect on maps of all levels."""
        head = self.detector.bbox_head
        outputs = head(features)
        score_maps, code_maps = list(outputs[0]), list(outputs[1])
        sizes = [_size_of(level) for level in score_maps]
        priors = head.prior_generator.grid_priors(sizes, dtype=score_maps[0].dtype, device='cpu')
        scores = _rows(score_maps, head.cls_out_channels)
        scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]
        factors = None
        if len(outputs) > 2:
            factors = _rows(list(outputs[2]), 1)[..., 0].sigmoid()
        return Candidates(
            boxes=self._decode(torch.cat(priors), _rows(code_maps, 4)),
            scores=scores,
            factors=factors,
            levels=[len(level) for level in priors],
        )

    def _decode(self, priors: Tensor, codes: Tensor) -> Tensor:
        """Decode a batch by mmdet's coder.

        Args:
            priors: ``(K, 4)``, or ``(K, 2)`` for points.
            codes: ``(N, K, 4)``.
        """
        batch = priors.expand(codes.shape[0], *priors.shape)
        boxes = self.detector.bbox_head.bbox_coder.decode(
            batch.reshape(-1, priors.shape[-1]), codes.reshape(-1, 4)
        )
        return _tensor(boxes).reshape(codes.shape[0], -1, 4)


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` best of ``(K,)`` and where they are; all if there are fewer."""
    return scores.topk(min(count, int(scores.shape[0])))


class TwoStageGraph(DetectorGraph):
    """Proposals, and all boxes of a two-stage detector on them.

    The proposals are a fixed number, ``max_per_img`` of the RPN: where suppression leaves
    fewer, boxes and scores of the rest are 0. One image at a time.

    Args:
        detector: A ``TwoStageDetector`` with a ``StandardRoIHead``.

    Shape:
        ``(1, 3, H, W)`` to boxes ``(1, K, classes, 4)`` in pixels, or ``(1, K, 4)``
        where the classes share one, and scores ``(1, K, classes)``.
    """

    one_image = True
    unordered = True

    def detect(self, features: Any, size: tuple[int, int]) -> Candidates:
        """Detect on maps of one image."""
        boxes, valid = self.propose(features, size)
        boxes = boxes * valid[:, None]  # suppressed boxes become 0
        head = self.detector.roi_head
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
        pooled = self._pool(features, rois)
        if head.with_shared_head:
            pooled = head.shared_head(pooled)
        scores, codes = head.bbox_head(pooled)
        scores = scores.softmax(-1)[:, :-1] * valid[:, None]
        decoded = self._decode(boxes, codes, size)
        decoded = decoded * valid.reshape(-1, *[1] * (decoded.ndim - 1))
        return Candidates(boxes=decoded[None], scores=scores[None])

    def propose(self, features: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Propose regions.

        Args:
            features: Maps of all levels.
            size: Height and width of the image.

        Returns:
            Boxes ``(K, 4)``, best first, and ``(K,)``: 1 for proposals, 0 for the rest.
        """
        import torchvision

        cfg = self.detector.test_cfg.rpn
        boxes, scores, levels = self._scored_anchors(features, size, cfg.get('nms_pre', -1))
        least = cfg.get('min_bbox_size', -1)
        if least >= 0:
            sides = boxes[:, 2:] - boxes[:, :2]
            scores = torch.where((sides > least).all(-1), scores, torch.zeros_like(scores))
        # move every level to a separate place, so that levels do not suppress each other
        separate = boxes + levels[:, None] * (max(size) + 1)
        kept = torchvision.ops.nms(separate, scores, cfg.nms.iou_threshold)
        alive = torch.zeros_like(scores).scatter(0, kept, torch.ones_like(scores[kept]))
        values, best = _best(alive * scores, cfg.max_per_img)
        return boxes[best], (values > 0).to(boxes.dtype)

    def _scored_anchors(
        self, features: Any, size: tuple[int, int], most: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the best anchors of every level.

        Args:
            features: Maps of all levels.
            size: Height and width of the image.
            most: Anchors to take of a level; 0 or less takes all.

        Returns:
            Boxes ``(K, 4)``, their scores ``(K,)`` and the numbers of their levels ``(K,)``.
        """
        rpn = self.detector.rpn_head
        score_maps, code_maps = rpn(features)[:2]
        sizes = [_size_of(level) for level in score_maps]
        priors = rpn.prior_generator.grid_priors(sizes, dtype=score_maps[0].dtype, device='cpu')
        boxes: list[Tensor] = []
        scores: list[Tensor] = []
        levels: list[Tensor] = []
        for level, (score_map, code_map, prior) in enumerate(zip(score_maps, code_maps, priors)):
            logits = _rows([score_map], rpn.cls_out_channels)[0]
            all_scores = logits.sigmoid() if rpn.use_sigmoid_cls else logits.softmax(-1)
            score, best = _best(all_scores[:, 0], most if most > 0 else len(prior))
            codes = _rows([code_map], 4)[0]
            boxes.append(rpn.bbox_coder.decode(prior[best], codes[best], max_shape=size))
            scores.append(score)
            levels.append(torch.full_like(score, float(level)))
        return torch.cat(boxes), torch.cat(scores), torch.cat(levels)

    def _pool(self, features: Any, rois: Tensor) -> Tensor:
        """Pool every region ``(0, x1, y1, x2, y2)`` from the level of its size."""
        import torchvision

        extractor = self.detector.roi_head.bbox_roi_extractor
        maps = features[: extractor.num_inputs]
        pooled = [
            torchvision.ops.roi_align(
                x,
                rois,
                output_size=tuple(layer.output_size),
                spatial_scale=1 / stride,
                sampling_ratio=layer.sampling_ratio,
                aligned=layer.aligned,
            )
            for x, layer, stride in zip(maps, extractor.roi_layers, extractor.featmap_strides)
        ]
        if len(pooled) == 1:
            return pooled[0]
        level = extractor.map_roi_levels(rois, len(pooled))
        chosen = torch.zeros_like(pooled[0])
        for i, x in enumerate(pooled):
            chosen = torch.where((level == i)[:, None, None, None], x, chosen)
        return chosen

    def _decode(self, boxes: Tensor, codes: Tensor, size: tuple[int, int]) -> Tensor:
        """Decode ``(K, classes * 4)`` or, where the classes share a box, ``(K, 4)``."""
        head = self.detector.roi_head.bbox_head
        count = 1 if head.reg_class_agnostic else head.num_classes
        spread = boxes[:, None].expand(-1, count, 4).reshape(-1, 4)
        decoded = _tensor(head.bbox_coder.decode(spread, codes.reshape(-1, 4), max_shape=size))
        return decoded if count == 1 else decoded.reshape(-1, count, 4)


class Backbone(nn.Module):
    """Backbone of a detector.

    Args:
        detector: A detector of mmdet.

    Shape:
        ``(N, 3, H, W)`` to its maps ``(N, C, H_i, W_i)``.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of images."""
        return tuple(self.backbone(images))


class NeckAndHeads(nn.Module):
    """Neck and heads of a detector.

    Args:
        graph: The detector as a graph.
        size: Height and width of the images.

    Shape:
        The maps of :class:`Backbone` to the outputs of ``graph``.
    """

    def __init__(self, graph: DetectorGraph, size: tuple[int, int]) -> None:
        super().__init__()
        self.whole, self.size = graph, size  # TorchScript's modules have another `graph`

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of :data:`OUTPUTS`."""
        detector = self.whole.detector
        features = detector.neck(maps) if detector.with_neck else maps
        return self.whole.detect(features, self.size).outputs()


def split(graph: DetectorGraph, size: tuple[int, int]) -> tuple[Backbone, NeckAndHeads] | None:
    """Split a detector at the end of its backbone.

    Args:
        graph: The detector as a graph.
        size: Height and width of the images.

    Returns:
        Both parts; None if the class of the detector extracts its features in its own way.
    """
    from mmdet.models.detectors import SingleStageDetector, TwoStageDetector

    known = (SingleStageDetector.extract_feat, TwoStageDetector.extract_feat)
    if type(graph.detector).extract_feat not in known:
        return None
    return Backbone(graph.detector), NeckAndHeads(graph, size)


def _why_not_two_stage(detector: Any) -> str | None:
    """Return why :class:`TwoStageGraph` does not know the parts of a detector, or None."""
    if not getattr(detector, 'with_rpn', False):
        return 'it takes proposals from outside, and an export has images only'
    rpn, extractor = detector.rpn_head, detector.roi_head.bbox_roi_extractor
    if not all(hasattr(rpn, name) for name in ('prior_generator', 'bbox_coder')):
        return f'{type(rpn).__name__} has no anchors of a fixed form'
    layers = getattr(extractor, 'roi_layers', ())
    if not hasattr(extractor, 'map_roi_levels') or not all(hasattr(x, 'aligned') for x in layers):
        pooling = ', '.join(sorted({type(layer).__name__ for layer in layers}))
        return (
            f'{type(extractor).__name__} of {pooling} is not known, only SingleRoIExtractor '
            'of RoIAlign'
        )
    return None


def detector_graph(detector: nn.Module) -> DetectorGraph:
    """Make the graph of a detector of mmdet.

    Raises:
        ExportError: If it is neither one-stage with a dense head nor two-stage with a
            single head on proposals.
    """
    if getattr(detector, 'with_mask', False):
        raise ExportError('masks are not exported, only boxes')
    if hasattr(detector, 'roi_head'):
        if hasattr(detector.roi_head, 'num_stages'):
            raise ExportError('cascades of heads on proposals are not exported')
        reason = _why_not_two_stage(detector)
        if reason:
            raise ExportError(f'{type(detector).__name__} is not exported: {reason}')
        return TwoStageGraph(detector)
    head = getattr(detector, 'bbox_head', None)
    if not all(hasattr(head, name) for name in ('prior_generator', 'bbox_coder')):
        raise ExportError(
            f'{type(detector).__name__} with {type(head).__name__} is not exported; '
            'known are one-stage detectors with anchors or points, and two-stage ones'
        )
    return OneStageGraph(detector)
