"""The information-bottleneck terms of BiDet, for any detector.

A detector that keeps less of the image overfits less, and one that is sure of few
objects reports fewer false ones. BiDet adds two terms to a detector's loss, after a
first phase without them (:class:`~mmesbnn.engine.hooks.BottleneckHook`): the energy of
its features, and the entropy of its scores. Boxes are predicted as a distribution, a
mean and a log variance, from which training samples.

Source: Wang et al., "BiDet: An Efficient Binarized Object Detector" (CVPR 2020), and
its code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...checks import checked, not_negative


def _single_or_double(x: Tensor) -> Tensor:
    """Squares and logarithms of half-precision values are too coarse."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def zero_of(x: Tensor) -> Tensor:
    """A zero in the graph of ``x``, whatever ``x`` holds.

    ``x * 0`` would be NaN for an infinite entry; the sum of no entries is 0.
    """
    return _single_or_double(x.flatten()[:0]).sum()


def feature_energy(features: Sequence[Tensor]) -> Tensor:
    """``mean_l mean(f_l^2)``: mean square of every map, averaged over the maps.

    Args:
        features: Maps ``(N, C_l, H_l, W_l)``, or tensors of any shape; at least one.

    Returns:
        Tensor ``()``. The mean of an empty map (no regions) counts as 0.
    """
    energies = [_single_or_double(f).square().mean() if f.numel() else zero_of(f) for f in features]
    return torch.stack(energies).mean()


def object_entropy(scores: Tensor, num_gt: int) -> Tensor:
    """``-sum_i p_i log p_i / n_gt`` with ``p = s / sum(s)``.

    The sum carries no gradient: ``dL/ds_i = -(log p_i + 1) / (n_gt sum(s))``. So scores
    with a share above ``1 / e`` rise, and all others sink.

    Args:
        scores: Scores of detections of one class, or of all, ``(n,)``, in [0, 1].
        num_gt: How many objects there are, at least 1.

    Returns:
        Tensor ``()``; 0, in the graph of ``scores``, if there are no detections.
    """
    scores = _single_or_double(scores)
    if not scores.numel():
        return zero_of(scores)
    smallest = torch.finfo(scores.dtype).tiny
    p = (scores / scores.detach().sum().clamp(min=smallest)).clamp(min=smallest)
    return -(p * p.log()).sum() / num_gt


def split_boxes(prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Log variance and mean of boxes, predicted as ``[log var x4, mean x4]`` each.

    Args:
        prediction: ``(N, 8 A, H, W)`` of a convolution or ``(N, 8 A)`` of a linear
            layer, anchor by anchor.

    Returns:
        Two tensors ``(N, 4 A, ...)``: log variance, mean.
    """
    per_anchor = prediction.unflatten(1, (-1, 2, 4))
    return per_anchor[:, :, 0].flatten(1, 2), per_anchor[:, :, 1].flatten(1, 2)


def sample_boxes(mean: Tensor, log_var: Tensor, sigma: float) -> Tensor:
    """``mean + sigma exp(log_var / 2) e`` with ``e`` from the standard normal.

    Gradients reach both (the reparametrisation trick): ``dy/dmean = 1`` and
    ``dy/dlog_var = sigma exp(log_var / 2) e / 2``.

    Args:
        mean: Tensor of any shape.
        log_var: Tensor of that shape.
        sigma: Factor of the noise; 0 returns ``mean`` itself.
    """
    if sigma == 0:  # 0 * exp would be NaN where exp overflows
        return mean
    return mean + sigma * (log_var / 2).exp() * torch.randn_like(mean)


@MODELS.register_module()
class VariationalBoxes(nn.Module):
    """From a distribution of boxes to boxes: sampled in training, the mean at test.

    Args:
        sigma: Factor of the noise, see :func:`sample_boxes`. Default 0: no noise, and
            the log variance trains nothing.

    Raises:
        ValueError: If ``sigma`` is negative or not finite.

    Shape:
        ``(N, 8 A, ...)`` to ``(N, 4 A, ...)``; see :func:`split_boxes`.

    Source: BiDet. The published SSD samples with ``sigma=0`` unless told
    otherwise, the published Faster R-CNN with 0.001, in its RPN at test too.
    """

    @checked(sigma=not_negative)
    def __init__(self, sigma: float = 0.0) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, prediction: Tensor) -> Tensor:
        """Turn predicted distributions into boxes."""
        log_var, mean = split_boxes(prediction)
        return sample_boxes(mean, log_var, self.sigma if self.training else 0.0)

    def extra_repr(self) -> str:
        return f'sigma={self.sigma}'


class BottleneckTerm(nn.Module):
    """A loss that :class:`~mmesbnn.engine.hooks.BottleneckHook` switches on.

    Args:
        loss_weight: Factor of the loss while it is on.

    Attributes:
        active: Whether the term is on. It is, unless a hook says otherwise. While it
            is off, the loss is a zero that costs nothing.

    Raises:
        ValueError: If ``loss_weight`` is negative or not finite.
    """

    @checked(loss_weight=not_negative)
    def __init__(self, loss_weight: float) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.active = True

    @property
    def is_on(self) -> bool:
        """Whether there is anything to compute."""
        return self.active and self.loss_weight > 0

    def extra_repr(self) -> str:
        return f'loss_weight={self.loss_weight}'


@MODELS.register_module()
class FeatureEnergyLoss(BottleneckTerm):
    """BiDet's ``reg`` loss, ``loss_weight`` times :func:`feature_energy`.

    Args:
        loss_weight: Factor of the loss. Default 0.1, the published SSD's.

    Raises:
        ValueError: If ``loss_weight`` is negative or not finite.

    Source: BiDet, and its code.
    """

    @checked(loss_weight=not_negative)
    def __init__(self, loss_weight: float = 0.1) -> None:
        super().__init__(loss_weight)

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Compute the loss, ``()``, of one map or several."""
        if isinstance(features, Tensor):
            features = [features]
        if not self.is_on:
            return zero_of(features[0])
        return self.loss_weight * feature_energy(features)


@MODELS.register_module()
class SparseObjectLoss(BottleneckTerm):
    """BiDet's ``prior`` loss: :func:`object_entropy`, averaged over groups of scores.

    A group are the detections of one class in one image (or of all classes), after
    non-maximum suppression. It counts if it has an object, and more detections than
    objects; so neither images without objects nor classes without detections divide
    by zero, as they do in the published Faster R-CNN.

    Args:
        loss_weight: Factor of the loss. Default 0.2, the published SSD's.
        attached: Whether the scores get gradients. False is what the published RPN
            does, by reading them from ``.data``: its prior loss is a number in the log
            that trains nothing. Default True.

    Raises:
        ValueError: If ``loss_weight`` is negative or not finite.

    Source: BiDet, and its code. To keep finite, the published code adds 1e-6 to the
    number of groups (SSD) or inside the logarithm (Faster R-CNN); this does neither.
    """

    @checked(loss_weight=not_negative)
    def __init__(self, loss_weight: float = 0.2, attached: bool = True) -> None:
        super().__init__(loss_weight)
        self.attached = attached

    def forward(self, groups: Iterable[tuple[Tensor, int]], like: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            groups: For each group the scores ``(n,)`` and the number of objects. Taken
                one by one, and only while the term is on: give a generator, and
                suppression costs nothing before.
            like: A tensor of the network. The zero of no groups is in its graph.

        Returns:
            Tensor ``()``.
        """
        losses = [
            object_entropy(scores if self.attached else scores.detach(), num_gt)
            for scores, num_gt in (groups if self.is_on else ())
            if 0 < num_gt < len(scores)
        ]
        zero = zero_of(like)
        if not losses:
            return zero
        return self.loss_weight * torch.stack(losses).mean() + zero

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, attached={self.attached}'
