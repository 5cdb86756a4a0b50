"""Second stage of BiDet's Faster R-CNN: scores and boxes of regions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmcv.ops import nms
from mmdet.models.roi_heads import BBoxHead, StandardRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.structures.bbox import bbox2roi
from torch import Tensor, nn

from ...checks import checked, not_negative, probability, shown
from ..building import build_part
from ..losses import VariationalBoxes

#: Arguments of mmdet's head that cannot have another value here.
FIXED: dict[str, Any] = dict(
    with_avg_pool=True,
    with_cls=True,
    with_reg=True,
    reg_class_agnostic=True,
    reg_predictor_cfg=dict(type='Linear'),
)


def sampled_objects(result: SamplingResult) -> Iterator[tuple[int, int]]:
    """Yield each class of an image and its number of objects that regions cover.

    With ``add_gt_as_proposals`` every object is a region. All objects count, unless there are
    more positive regions than the sampler takes.
    """
    objects = torch.stack([result.pos_gt_labels, result.pos_assigned_gt_inds], 1)
    labels, counts = objects.unique(dim=0)[:, 0].unique(return_counts=True)
    yield from zip(labels.tolist(), counts.tolist())


class BiDetBBoxHead(BBoxHead):
    """Head that computes scores and class-agnostic boxes from a region's mean features.

    ``f = mean(x)``; scores and boxes are full-precision linear layers of ``f``. A box
    is a distribution: four log variances, then four means (:class:`VariationalBoxes`).
    The two added losses need :class:`BiDetRoIHead`; other RoI heads leave them out. A
    ``UserWarning`` then says so, unless the weights of both losses are 0.

    Args:
        *args: As :class:`mmdet.models.BBoxHead`'s.
        sigma: Factor of the boxes' noise in training. Default 0.001.
        loss_reg: Config of the energy loss. Default: ``FeatureEnergyLoss`` of weight
            0.02, as published.
        loss_prior: Config of the entropy loss. Default: ``SparseObjectLoss`` of weight
            0.05, as published.
        prior_score_thr: A score above this threshold counts as a detection in the
            entropy loss. Default 0.01.
        prior_iou_thr: IoU threshold of the non-maximum suppression in the entropy loss,
            which runs class by class. Default 0.3.
        **kwargs: As :class:`mmdet.models.BBoxHead`'s. ``reg_class_agnostic`` and
            ``with_avg_pool`` are True.

    Raises:
        ValueError: If an argument is out of range, or if one of mmdet's has a value that
            this head does not support.

    Shape:
        ``(R, C, H, W)`` to scores ``(R, classes + 1)``, background last, and boxes
        ``(R, 4)``.

    Source: Wang et al., "BiDet" (CVPR 2020), its Faster R-CNN.
    """

    @checked(sigma=not_negative, prior_score_thr=probability, prior_iou_thr=probability)
    def __init__(
        self,
        *args: Any,
        sigma: float = 0.001,
        loss_reg: dict[str, Any] | None = None,
        loss_prior: dict[str, Any] | None = None,
        prior_score_thr: float = 0.01,
        prior_iou_thr: float = 0.3,
        **kwargs: Any,
    ) -> None:
        for name, value in FIXED.items():
            if kwargs.setdefault(name, value) != value:
                raise ValueError(
                    f'{shown(name, kwargs[name])} must be {value}, or be left out: BiDetBBoxHead '
                    'computes scores and class-agnostic boxes with linear layers'
                )
        super().__init__(*args, **kwargs)
        self.fc_reg = nn.Linear(self.fc_reg.in_features, 8)  # type: ignore[has-type]
        self.boxes = VariationalBoxes(sigma)
        self.loss_reg = build_part(
            'loss_reg', loss_reg or dict(type='FeatureEnergyLoss', loss_weight=0.02)
        )
        self.loss_prior = build_part(
            'loss_prior', loss_prior or dict(type='SparseObjectLoss', loss_weight=0.05)
        )
        self.prior_score_thr = prior_score_thr
        self.prior_iou_thr = prior_iou_thr
        #: True if the RoI head adds the two losses to those of :meth:`loss_and_target`.
        self.has_bottleneck = False

    def features(self, x: Tensor) -> Tensor:
        """Return ``f``, ``(R, C)``."""
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scores and boxes of the regions ``x``."""
        features = self.features(x)
        return self.fc_cls(features), self.boxes(self.fc_reg(features))

    def loss_and_target(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Compute mmdet's losses; warn if the RoI head leaves out the others."""
        terms = (self.loss_reg, self.loss_prior)
        if not self.has_bottleneck and any(getattr(x, 'loss_weight', 1) for x in terms):
            warnings.warn(
                'BiDetBBoxHead: its RoI head leaves out loss_reg and loss_prior: use a '
                'BiDetRoIHead, or give both loss_weight=0',
                stacklevel=2,
            )
        return super().loss_and_target(*args, **kwargs)

    def bottleneck_losses(
        self, results: dict[str, Tensor], rois: Tensor, sampling_results: Sequence[SamplingResult]
    ) -> dict[str, Tensor]:
        """Compute the energy loss and the entropy loss.

        Args:
            results: ``bbox_feats``, ``cls_score`` and ``bbox_pred`` of the regions.
            rois: Regions ``(R, 5)``; the first entry is the index of the image.
            sampling_results: Result of the sampler for each image.
        """
        groups = self._detections(
            results['cls_score'], results['bbox_pred'], rois, sampling_results
        )
        return dict(
            loss_head_reg=self.loss_reg(self.features(results['bbox_feats'])),
            loss_head_prior=self.loss_prior(groups, results['cls_score']),
        )

    def _detections(
        self,
        logits: Tensor,
        deltas: Tensor,
        rois: Tensor,
        sampling_results: Sequence[SamplingResult],
    ) -> Iterator[tuple[Tensor, int]]:
        """Yield detection scores and number of objects, per image and class in it."""
        scores = logits.softmax(-1)
        boxes = self.bbox_coder.decode(rois[:, 1:], deltas.detach())
        sizes = [len(result.priors) for result in sampling_results]
        for of_image, at, result in zip(scores.split(sizes), boxes.split(sizes), sampling_results):
            for label, num_gt in sampled_objects(result):
                score = of_image[:, label]
                likely = score > self.prior_score_thr
                score = score[likely]
                _, kept = nms(at[likely], score.detach(), self.prior_iou_thr)
                yield score[kept], num_gt


class BiDetRoIHead(StandardRoIHead):
    """RoI head that adds the bottleneck terms of :class:`BiDetBBoxHead` to the losses.

    Takes the arguments of :class:`mmdet.models.StandardRoIHead`. The added losses are
    ``loss_head_reg`` and ``loss_head_prior``.

    Raises:
        ValueError: If ``bbox_head`` is not a :class:`BiDetBBoxHead`.
    """

    def init_bbox_head(self, *args: Any, **kwargs: Any) -> None:
        """Make the extractor of regions and the head; mmdet's constructor calls it."""
        super().init_bbox_head(*args, **kwargs)
        if not isinstance(self.bbox_head, BiDetBBoxHead):
            raise ValueError(
                f'bbox_head of BiDetRoIHead is a {type(self.bbox_head).__name__}: use a '
                'BiDetBBoxHead, or the StandardRoIHead of mmdet'
            )
        self.bbox_head.has_bottleneck = True

    def bbox_loss(
        self, x: tuple[Tensor, ...], sampling_results: list[SamplingResult]
    ) -> dict[str, Any]:
        """Compute the losses of the sampled regions; the result also holds their inputs."""
        results = super().bbox_loss(x, sampling_results)
        rois = bbox2roi([result.priors for result in sampling_results])
        results['loss_bbox'].update(
            self.bbox_head.bottleneck_losses(results, rois, sampling_results)
        )
        return results
