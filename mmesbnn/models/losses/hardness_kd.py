"""Distillation from several teachers; the teacher that is harder to follow weighs more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...binary.precision import in_full_precision
from ...checks import checked, not_negative, one_of

WEIGHTINGS = ('batch', 'sample')


def soft_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """Compute ``-sum_c softmax(teacher)_c log softmax(logits)_c`` of every sample.

    Args:
        logits: Student's logits ``(N, K)``.
        teacher: Teacher's logits ``(N, K)``.

    Returns:
        Tensor ``(N,)``.
    """
    return -(teacher.softmax(1) * F.log_softmax(logits, 1)).sum(1)


@MODELS.register_module()
class HardnessWeightedKDLoss(nn.Module):
    r"""Soft cross-entropy to several teachers; the harder teacher weighs more.

    With ``CE_{n,i}`` the :func:`soft_cross_entropy` of sample ``n`` to teacher ``i``,
    and weights ``a_{n,i} = softmax_i(CE_{n,i})`` that carry no gradient::

        'batch'   L = 1/2 sum_i mean_n(a_{n,i}) mean_n(CE_{n,i})
        'sample'  L = 1/2 mean_n sum_i a_{n,i} CE_{n,i}

    The published code computes ``'batch'``, because it compares "instance" with
    "Instance". The paper describes ``'sample'``. Means are over the samples of this
    process. The factor 1/2 also applies to a single teacher, as published.

    Args:
        weighting: ``'batch'`` or ``'sample'``. Default ``'batch'``.
        loss_weight: Factor of the loss. Default 1.

    Raises:
        ValueError: If ``weighting`` has another value; when called, if there is no
            teacher or if the logits of a teacher have another shape than the student's.

    Source: Guo et al., "BNext" (2022), and its training code.
    """

    @checked(weighting=one_of(*WEIGHTINGS), loss_weight=not_negative)
    def __init__(self, weighting: str = 'batch', loss_weight: float = 1.0) -> None:
        super().__init__()
        self.weighting = weighting
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, teachers: Sequence[Tensor]) -> Tensor:
        """Compute the loss.

        Args:
            logits: Student's logits ``(N, K)``.
            teachers: Logits of at least one teacher, ``(N, K)`` each.

        Returns:
            Tensor ``()``.
        """
        logits = in_full_precision(logits)
        entropy = torch.stack(
            [
                soft_cross_entropy(logits, teacher.to(logits.dtype))
                for teacher in self._check(logits, teachers)
            ]
        )
        hardness = entropy.detach().softmax(0)
        if self.weighting == 'batch':
            loss = (hardness.mean(1) * entropy.mean(1)).sum()
        else:
            loss = (hardness * entropy).sum(0).mean()
        return self.loss_weight * 0.5 * loss

    def _check(self, logits: Tensor, teachers: Sequence[Tensor]) -> Sequence[Tensor]:
        if not len(teachers):
            raise ValueError('HardnessWeightedKDLoss needs the logits of a teacher')
        for i, teacher in enumerate(teachers):
            if teacher.shape != logits.shape:
                raise ValueError(
                    f'the logits of teacher {i} are {tuple(teacher.shape)}, those of '
                    f'the student {tuple(logits.shape)}: images and classes must agree'
                )
        return teachers

    def extra_repr(self) -> str:
        return f'weighting={self.weighting!r}, loss_weight={self.loss_weight}'
