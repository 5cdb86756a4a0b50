"""Hook that switches the information-bottleneck terms of a detector's loss on."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ...checks import checked, natural
from ...models.losses import BottleneckTerm
from ..reach import check_by_epoch, unit_of


def bottleneck_terms(model: nn.Module) -> list[BottleneckTerm]:
    """Return the bottleneck losses of ``model``, also inside wrappers."""
    return [m for m in model.modules() if isinstance(m, BottleneckTerm)]


@HOOKS.register_module()
class BottleneckHook(Hook):
    """Hook that switches the bottleneck terms of the loss on after a first phase.

    Every :class:`~mmesbnn.models.losses.BottleneckTerm` of the model is off before epoch
    (or iteration) ``begin``, counted from 0. From then on it is on, with its own
    ``loss_weight``. The state depends on the step only, so a training that is resumed after
    ``begin`` also has the terms. The published SSD code switches only in the exact
    iteration, so a training that is resumed later runs without the terms.

    Args:
        begin: First epoch, or iteration, with the terms. In the published code it is the
            first step of the learning rate.
        by_epoch: Whether ``begin`` counts epochs. If not, it counts iterations. Default
            True.

    Raises:
        ValueError: If ``begin`` is negative; before training, if the model has no such
            terms, or if ``by_epoch`` does not match the training loop.

    Source: Wang et al., "BiDet" (CVPR 2020), its training code.
    """

    @checked(begin=natural)
    def __init__(self, begin: int, by_epoch: bool = True) -> None:
        self.begin = begin
        self.by_epoch = by_epoch

    def before_train(self, runner: Runner) -> None:
        """Find the terms."""
        check_by_epoch(runner, self)
        self._terms = bottleneck_terms(runner.model)
        if not self._terms:
            raise ValueError(
                'BottleneckHook: no module of the model is a BottleneckTerm: remove the hook'
            )
        steps = runner.max_epochs if self.by_epoch else runner.max_iters
        if self.begin >= steps:
            runner.logger.warning(
                f'BottleneckHook: the terms are switched on at {unit_of(self)} {self.begin}, '
                f'after the last one, {steps - 1}, so they train nothing'
            )
        self._active: bool | None = None

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Switch the terms at their step."""
        step = runner.epoch if self.by_epoch else runner.iter
        active = step >= self.begin
        if active == self._active:
            return
        self._active = active
        for term in self._terms:
            term.active = active
        names = ', '.join(f'{type(t).__name__} {t.loss_weight:g}' for t in self._terms)
        runner.logger.info(
            f'{unit_of(self)} {step}: bottleneck terms {"on" if active else "off"} ({names})'
        )
