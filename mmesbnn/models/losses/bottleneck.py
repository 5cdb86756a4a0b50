"""Information-bottleneck terms of BiDet, for any detector.

A detector that keeps less of the image overfits less. A detector that is sure of few
objects reports fewer false ones. BiDet therefore adds two terms to a detector's loss:
the energy of its features and the entropy of its scores. The first phase of training
runs without them (:class:`~mmesbnn.engine.hooks.BottleneckHook`). Boxes are predicted as
a distribution with a mean and a log variance; training samples from it.

Source: Wang et al., "BiDet: An Efficient Binarized Object Detector" (CVPR 2020), and
its code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...binary.precision import in_full_precision
from ...checks import checked, not_negative


def zero_of(x: Tensor) -> Tensor:
    """Return a zero in the graph of ``x``, for any content of ``x``.

    ``x * 0`` would be NaN for an infinite entry; the sum of no entries is 0.
    """
    return in_full_precision(x.flatten()[:0]).sum()


def feature_energy(features: Sequence[Tensor]) -> Tensor:
    """Compute ``mean_l mean(f_l^2)``: the mean square of each map, averaged over the maps.

    Args:
        features: Maps ``(N, C_l, H_l, W_l)``, or tensors of any shape; at least one.

    Returns:
        Tensor ``()``. The mean of an empty map (no regions) counts as 0.
    """
    energies = [in_full_precision(f).square().mean() if f.numel() else zero_of(f) for f in features]
    return torch.stack(energies).mean()


def object_entropy(scores: Tensor, num_gt: int) -> Tensor:
    """Compute ``-sum_i p_i log p_i / n_gt`` with ``p = s / sum(s)``.

    ``sum(s)`` carries no gradient: ``dL/ds_i = -(log p_i + 1) / (n_gt sum(s))``. Training
    therefore raises scores with a share above ``1 / e`` and lowers all others.

    Args:
        scores: Scores of detections of one class, or of all, ``(n,)``, in [0, 1].
        num_gt: Number of objects, at least 1.

    Returns:
        Tensor ``()``; 0, in the graph of ``scores``, if there are no detections.
    """
    scores = in_full_precision(scores)
    if not scores.numel():
        return zero_of(scores)
    smallest = torch.finfo(scores.dtype).tiny
    p = (scores / scores.detach().sum().clamp(min=smallest)).clamp(min=smallest)
    return -(p * p.log()).sum() / num_gt


def split_boxes(prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Split predicted boxes ``[log var x4, mean x4]`` into log variance and mean.

    Args:
        prediction: ``(N, 8 A, H, W)`` of a convolution or ``(N, 8 A)`` of a linear
            layer, anchor by anchor.

    Returns:
        Two tensors ``(N, 4 A, ...)``: log variance, mean.
    """
    per_anchor = prediction.unflatten(1, (-1, 2, 4))
    return per_anchor[:, :, 0].flatten(1, 2), per_anchor[:, :, 1].flatten(1, 2)


def sample_boxes(mean: Tensor, log_var: Tensor, sigma: float) -> Tensor:
    """Sample ``mean + sigma exp(log_var / 2) e`` with ``e`` from the standard normal.

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
    """Module that turns distributions of boxes into boxes.

    Training samples from the distribution; inference takes its mean.

    Args:
        sigma: Factor of the noise, see :func:`sample_boxes`. Default 0: there is no
            noise, and the log variance gets no gradient.

    Raises:
        ValueError: If ``sigma`` is negative or not finite.

    Shape:
        ``(N, 8 A, ...)`` to ``(N, 4 A, ...)``; see :func:`split_boxes`.

    Source: BiDet. The published SSD samples with ``sigma=0`` by default. The published
    Faster R-CNN samples with 0.001; its RPN does so at inference, too.
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
    """Base of a loss that :class:`~mmesbnn.engine.hooks.BottleneckHook` switches on.

    Args:
        loss_weight: Factor of the loss while it is on.

    Attributes:
        active: True while the term is on. A hook can switch it off. While it is off,
            the loss is 0 and nothing is computed.

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
        """True if the term is active and its weight is not 0."""
        return self.active and self.loss_weight > 0

    def extra_repr(self) -> str:
        return f'loss_weight={self.loss_weight}'


@MODELS.register_module()
class FeatureEnergyLoss(BottleneckTerm):
    """BiDet's ``reg`` loss: ``loss_weight`` times :func:`feature_energy`.

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
        """Compute the loss ``()`` of one map or of several maps."""
        if isinstance(features, Tensor):
            features = [features]
        if not self.is_on:
            return zero_of(features[0])
        return self.loss_weight * feature_energy(features)


@MODELS.register_module()
class SparseObjectLoss(BottleneckTerm):
    """BiDet's ``prior`` loss: :func:`object_entropy`, averaged over groups of scores.

    A group holds the detections of one class in one image (or of all classes), after
    non-maximum suppression. It counts only if it has at least one object and more
    detections than objects. This avoids the division by zero that the published Faster
    R-CNN has for images without objects and for classes without detections.

    Args:
        loss_weight: Factor of the loss. Default 0.2, the published SSD's.
        attached: Whether the scores get gradients. The published RPN corresponds to
            False: it reads the scores from ``.data``, so its prior loss appears in the
            log but trains nothing. Default True.

    Raises:
        ValueError: If ``loss_weight`` is negative or not finite.

    Source: BiDet, and its code. To stay finite, the published code adds 1e-6 to the
    number of groups (SSD) or inside the logarithm (Faster R-CNN). This class adds
    nothing.
    """

    @checked(loss_weight=not_negative)
    def __init__(self, loss_weight: float = 0.2, attached: bool = True) -> None:
        super().__init__(loss_weight)
        self.attached = attached

    def forward(self, groups: Iterable[tuple[Tensor, int]], like: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            groups: For each group the scores ``(n,)`` and the number of objects. They
                are read one by one, and only while the term is on. With a generator,
                suppression costs nothing while the term is off.
            like: A tensor of the network. If no group counts, the result is a zero in
                the graph of this tensor.

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
