"""BiDet's SSD head: boxes as distributions, and the bottleneck terms of the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmcv.ops import nms
from mmdet.models.dense_heads import SSDHead
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...binary.precision import in_full_precision
from ...checks import checked, each, mapping, not_negative, optional, positive_int, probability
from ..building import build_part
from ..losses import VariationalBoxes

#: Published selection of the detections that the entropy loss reads.
PRIOR_CFG = dict(score_thr=0.03, iou_threshold=0.45, max_per_class=200)
PRIOR_RULE = each(
    mapping((), PRIOR_CFG),
    score_thr=probability,
    iou_threshold=probability,
    max_per_class=positive_int,
)


def best_per_class(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the indices of the ``count`` highest scores of each class.

    Args:
        scores: ``(n,)``.
        labels: ``(n,)``.
        count: Largest number of indices per class.
    """
    order = scores.argsort(descending=True)
    parts = [order[labels[order] == label][:count] for label in labels.unique()]
    return torch.cat(parts) if parts else order


def _per_anchor(maps: Sequence[Tensor], size: int) -> Tensor:
    """Reshape maps ``(N, A size, H, W)`` to ``(N, anchors of all maps, size)``."""
    flat = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, size) for m in maps]
    return torch.cat(flat, 1)


class BiDetSSDHead(SSDHead):
    """mmdet's ``SSDHead`` with sampled boxes and the two added losses of BiDet.

    A box is a distribution: the regression layers give 8 channels per anchor, four log
    variances, then four means (:class:`VariationalBoxes`). Training samples boxes;
    inference takes the means. All layers of the head are full precision.

    The head adds two losses. ``loss_reg`` is the energy of the maps that the head reads.
    ``loss_prior`` is the entropy of scores: for each image and each class in it, it reads
    the detections of that class after non-maximum suppression. Both losses are on from
    the beginning, unless :class:`~mmesbnn.engine.hooks.BottleneckHook` delays them.

    ``test_cfg`` may have ``max_per_class``: only that many boxes of a class, the best
    ones, enter non-maximum suppression, as published. mmdet's ``nms_pre`` is a limit per
    map and over all classes instead. Give a large number there: -1 makes mmdet drop the
    lowest score of every map, even if it is the only one.

    Args:
        *args: As ``SSDHead``'s.
        sigma: Factor of the boxes' noise in training. Default 0, as published: there is
            no noise, and log variances get no gradient.
        loss_reg: Config of the energy loss. Default: ``FeatureEnergyLoss`` of weight
            0.1, as published.
        loss_prior: Config of the entropy loss. Default: ``SparseObjectLoss`` of weight
            0.2, as published.
        prior_cfg: Selection of the detections that the entropy loss reads. First the
            scores above ``score_thr``, of these the best ``max_per_class``, and of these
            the ones that suppression at ``iou_threshold`` keeps. Defaults 0.03, 200 and
            0.45, as published. An entry that is not given keeps its default.
        **kwargs: As ``SSDHead``'s.

    Raises:
        ValueError: If ``prior_cfg`` has an unknown entry, or ``sigma`` is negative.

    Source: Wang et al., "BiDet: An Efficient Binarized Object Detector" (CVPR 2020),
    and its code.
    """

    #: mmdet's prediction reads this attribute. SSDHead lacks it: its loss is a function.
    loss_cls = None

    @checked(sigma=not_negative, prior_cfg=optional(PRIOR_RULE))
    def __init__(
        self,
        *args: Any,
        sigma: float = 0.0,
        loss_reg: dict[str, Any] | None = None,
        loss_prior: dict[str, Any] | None = None,
        prior_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.prior_cfg = {**PRIOR_CFG, **(prior_cfg or {})}
        self.boxes = VariationalBoxes(sigma)
        self.loss_reg = build_part('loss_reg', loss_reg or dict(type='FeatureEnergyLoss'))
        self.loss_prior = build_part('loss_prior', loss_prior or dict(type='SparseObjectLoss'))

    def _init_layers(self) -> None:
        """Make the layers; mmdet's constructor calls it."""
        super()._init_layers()
        for layers in self.reg_convs:
            last = layers[-1]
            layers[-1] = nn.Conv2d(
                last.in_channels, 2 * last.out_channels, last.kernel_size, padding=last.padding
            )

    def distributions(self, x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute scores ``(N, A (classes + 1), H, W)`` and boxes ``(N, 8 A, H, W)`` per map.

        Args:
            x: Maps ``(N, C, H, W)``.
        """
        return super().forward(x)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute scores ``(N, A (classes + 1), H, W)`` and boxes ``(N, 4 A, H, W)`` per map.

        Args:
            x: Maps ``(N, C, H, W)``.
        """
        scores, boxes = self.distributions(x)
        return scores, [self.boxes(level) for level in boxes]

    def loss(self, x: Sequence[Tensor], batch_data_samples: list[Any]) -> dict[str, Any]:
        """Compute all losses.

        Args:
            x: Maps ``(N, C, H, W)``.
            batch_data_samples: Ground truth and sizes of the images.
        """
        losses = super().loss(x, batch_data_samples)
        losses['loss_reg'] = self.loss_reg(x)
        return losses

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Compute the losses of scores and boxes; arguments as ``SSDHead``'s."""
        losses = super().loss_by_feat(cls_scores, bbox_preds, batch_gt_instances, *args, **kwargs)
        groups = self._detections(cls_scores, bbox_preds, batch_gt_instances)
        losses['loss_prior'] = self.loss_prior(groups, cls_scores[0])
        return losses

    def _detections(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
    ) -> Iterator[tuple[Tensor, int]]:
        """Yield detection scores and number of objects, per image and class in it."""
        priors = torch.cat(
            self.prior_generator.grid_priors(
                [level.shape[-2:] for level in cls_scores], device=cls_scores[0].device
            )
        )
        scores = _per_anchor(cls_scores, self.cls_out_channels).softmax(-1)
        deltas = _per_anchor([level.detach() for level in bbox_preds], 4)
        for of_image, delta, gt in zip(scores, deltas, batch_gt_instances):
            if not len(gt):
                continue
            boxes = self.bbox_coder.decode(priors, delta)
            labels, counts = gt.labels.unique(return_counts=True)
            for label, num_gt in zip(labels.tolist(), counts.tolist()):
                score = of_image[:, label]
                yield score[self._suppress(boxes, score.detach())], num_gt

    def _suppress(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """Return the indices, among all anchors, of the detections of one class."""
        cfg = self.prior_cfg
        likely = (scores > cfg['score_thr']).nonzero().flatten()
        order = scores[likely].argsort(descending=True)[: cfg['max_per_class']]
        likely = likely[order]
        # the operator supports single precision only
        _, kept = nms(boxes[likely].float(), scores[likely].float(), cfg['iou_threshold'])
        return likely[kept]

    def predict_by_feat(
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *args: Any, **kwargs: Any
    ) -> list[InstanceData]:
        """Compute detections as mmdet does, in full precision also under autocast.

        mmdet gives anchors the precision of the scores. In bfloat16 they would be rounded
        to whole pixels or pairs of pixels.
        """
        scores, boxes = ([in_full_precision(x) for x in maps] for maps in (cls_scores, bbox_preds))
        return super().predict_by_feat(scores, boxes, *args, **kwargs)

    def _bbox_post_process(
        self, results: InstanceData, cfg: dict[str, Any], *args: Any, **kwargs: Any
    ) -> InstanceData:
        """Process as mmdet does, but only the best boxes of each class."""
        count = cfg.get('max_per_class', -1)
        if count > 0:
            results = results[best_per_class(results.scores, results.labels, count)]
        return super()._bbox_post_process(results, cfg, *args, **kwargs)
