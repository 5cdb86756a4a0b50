"""BiDet's region proposal network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models.dense_heads import RPNHead
from mmdet.models.utils import multi_apply, select_single_mlvl, unpack_gt_instances
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...binary import Expansion, ShrunkConv2d, TiledBatchNorm2d
from ...binary.arguments import checked_layer
from ...binary.precision import in_full_precision
from ...binary.unit_steps import normalized
from ...checks import not_negative, optional, positive_int, shown
from ..backbones.base import norm_options
from ..backbones.bidet_resnet import WEIGHTS, bidet_conv
from ..building import build_part
from ..losses import VariationalBoxes


def _wide(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return ``maps`` in full precision; mmdet gives anchors the precision of the scores.

    In bfloat16 the corners of anchors above 256 would be multiples of 2, 4 or 8 pixels.
    """
    return [in_full_precision(level) for level in maps]


class BiDetRPNHead(RPNHead):
    """Region proposal head with a binary convolution and BiDet's bottleneck terms.

    ``f = norm(binary_conv(sign(x)) + b)``, 3x3, without an activation. Scores and boxes
    are full-precision 1x1 convolutions of ``f``. A box is a distribution: each anchor has
    four log variances, then four means (:class:`VariationalBoxes`).

    An anchor has one score, the logit of a sigmoid. The published network has two scores,
    for background and foreground, and a softmax. Both forms are equal: the softmax is the
    sigmoid of the difference of the two scores.

    With ES the convolution reads ``C tau g`` channels and has ``feat_channels / tau``
    kernels. Its output is tiled ``tau`` times, and each copy has its own affine. Scores
    and boxes therefore cost the same as with ``tau = 1``.

    The head adds two losses to those of :class:`mmdet.models.RPNHead`: ``loss_rpn_reg``,
    the energy of ``f``, and ``loss_rpn_prior``, the entropy of the proposals' scores.

    Args:
        in_channels: Input channels before expansion.
        feat_channels: Channels of ``f``. Default 512.
        tau: ES factor of the input. Default 1.
        groups: ES groups of the input. Default 1.
        copy_init: As :class:`~mmesbnn.binary.TiledBatchNorm2d`'s. Default ``'alike'``.
        sigma: Factor of the boxes' noise in training. With None a box is four plain
            numbers and not a distribution. Default 0.001.
        loss_reg: Config of the energy loss. Default: ``FeatureEnergyLoss`` of weight
            0.5, as published.
        loss_prior: Config of the entropy loss. Default: ``SparseObjectLoss`` of weight
            0.01, as published, with gradients. In the published code this loss has no
            gradient; use ``attached=False`` for that.
        sign_zero: Value of sign(0): -1, or 0 as in the published code. Default -1.
        norm_cfg: ``dict(type='BN')`` or ``dict(type='SyncBN')``. Default
            ``dict(type='BN')``.
        init_cfg: mmengine initialisation config. Default: normal, 0.01, as published.
        sign: As :class:`BiDetResNet`'s. Default ``'quadratic'``.
        weight_binarizer: As :class:`BiDetResNet`'s.
        **kwargs: As :class:`mmdet.models.RPNHead`'s. ``num_convs`` is 1.

    Raises:
        ValueError: If ``tau`` or ``groups`` do not divide ``feat_channels``, ``num_convs``
            is not 1, or the classification loss does not use a sigmoid.

    Source: Wang et al., "BiDet" (CVPR 2020), its Faster R-CNN. The published RPN also
    samples boxes at inference; this one does not.
    """

    @checked_layer(sigma=optional(not_negative), feat_channels=positive_int)
    def __init__(
        self,
        in_channels: int,
        feat_channels: int = 512,
        tau: int = 1,
        groups: int = 1,
        copy_init: str = 'alike',
        sigma: float | None = 0.001,
        loss_reg: dict[str, Any] | None = None,
        loss_prior: dict[str, Any] | None = None,
        sign_zero: int = -1,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[Any] | None = None,
        sign: Any = 'quadratic',
        weight_binarizer: Any = WEIGHTS,
        **kwargs: Any,
    ) -> None:
        if kwargs.get('num_convs', 1) != 1:
            raise ValueError(
                f'{shown("num_convs", kwargs["num_convs"])} must be 1: BiDetRPNHead has a single '
                'binary convolution'
            )
        self.expansion = Expansion(tau, groups)
        self._conv_options = bidet_conv(sign, weight_binarizer, sign_zero)
        self._box_channels = 4 if sigma is None else 8
        options, trained = norm_options(norm_cfg)
        self._norm_options = dict(options, copy_init=copy_init)
        init_cfg = init_cfg or dict(type='Normal', layer=['Conv2d', 'ShrunkConv2d'], std=0.01)
        super().__init__(
            in_channels=in_channels, feat_channels=feat_channels, init_cfg=init_cfg, **kwargs
        )
        if not self.use_sigmoid_cls:
            raise ValueError('loss_cls of BiDetRPNHead must have use_sigmoid=True')
        self.norm.requires_grad_(trained)
        self.boxes = nn.Identity() if sigma is None else VariationalBoxes(sigma)
        self.loss_reg = build_part(
            'loss_reg', loss_reg or dict(type='FeatureEnergyLoss', loss_weight=0.5)
        )
        self.loss_prior = build_part(
            'loss_prior', loss_prior or dict(type='SparseObjectLoss', loss_weight=0.01)
        )

    def _init_layers(self) -> None:
        """Make the layers; mmdet's constructor calls it."""
        tau = self.expansion.tau
        self.rpn_conv = ShrunkConv2d(
            self.in_channels,
            self.feat_channels,
            3,
            padding=1,
            bias=True,
            expansion=self.expansion,
            **self._conv_options,
        )
        self.norm = TiledBatchNorm2d(self.feat_channels, tau, **self._norm_options)
        anchors = self.num_base_priors
        self.rpn_cls = nn.Conv2d(self.feat_channels, anchors * self.cls_out_channels, 1)
        self.rpn_reg = nn.Conv2d(self.feat_channels, anchors * self._box_channels, 1)

    def features(self, x: Tensor) -> Tensor:
        """Compute ``f``, ``(N, feat_channels, H, W)``, of a map ``(N, C tau g, H, W)``."""
        if isinstance(self.norm, nn.Identity):
            raise TypeError(
                'rpn_conv has lost its norm, probably because a tool fused them: a binary '
                'convolution cannot be fused with a norm, because only the signs of its '
                'weight count'
            )
        return normalized(self.rpn_conv(x), self.norm, self.expansion.tau)

    def score_and_box(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scores ``(N, A, H, W)`` and boxes ``(N, 4 A, H, W)`` of ``f``."""
        return self.rpn_cls(features), self.boxes(self.rpn_reg(features))

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scores and boxes of one map."""
        return self.score_and_box(self.features(x))

    def loss(self, x: Sequence[Tensor], batch_data_samples: list[Any]) -> dict[str, Tensor]:
        """Compute the losses only, for a proposal network without a second stage."""
        return self.loss_and_predict(x, batch_data_samples)[0]

    def loss_and_predict(
        self,
        x: Sequence[Tensor],
        batch_data_samples: list[Any],
        proposal_cfg: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Tensor], list[InstanceData]]:
        """Compute the losses and the proposals that the second stage trains on.

        Args:
            x: Maps ``(N, C tau g, H, W)``.
            batch_data_samples: Ground truth and sizes of the images.
            proposal_cfg: Config of the proposals. Default ``test_cfg``.
        """
        gt, ignored, metas = unpack_gt_instances(batch_data_samples)
        features = [self.features(level) for level in x]
        scores, boxes = multi_apply(self.score_and_box, features)
        losses = self.loss_by_feat(scores, boxes, gt, metas, ignored)
        proposals = self._propose(scores, boxes, metas, proposal_cfg)
        losses['loss_rpn_reg'] = self.loss_reg(features)
        groups = ((found.scores, len(real)) for found, real in zip(proposals, gt))
        losses['loss_rpn_prior'] = self.loss_prior(groups, scores[0])
        for found in proposals:
            found.scores = found.scores.detach()
        return losses, proposals

    def predict_by_feat(
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *args: Any, **kwargs: Any
    ) -> list[InstanceData]:
        """Compute proposals as mmdet does, in full precision also under autocast."""
        scores, boxes = _wide(cls_scores), _wide(bbox_preds)
        return super().predict_by_feat(scores, boxes, *args, **kwargs)

    def _propose(
        self,
        scores: list[Tensor],
        boxes: list[Tensor],
        metas: list[dict[str, Any]],
        cfg: dict[str, Any] | None,
    ) -> list[InstanceData]:
        """Predict as ``predict_by_feat``, but keep the gradients of the scores."""
        scores, boxes = _wide(scores), _wide(boxes)
        priors = self.prior_generator.grid_priors(
            [level.shape[-2:] for level in scores], dtype=scores[0].dtype, device=scores[0].device
        )
        return [
            self._predict_by_feat_single(
                cls_score_list=select_single_mlvl(scores, i, detach=False),
                bbox_pred_list=select_single_mlvl(boxes, i, detach=True),
                score_factor_list=[None] * len(scores),
                mlvl_priors=priors,
                img_meta=meta,
                cfg=cfg,
            )
            for i, meta in enumerate(metas)
        ]
