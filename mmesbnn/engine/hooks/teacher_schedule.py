"""Hook that selects the assistant teacher of each part of a training."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checks import checked
from ..reach import check_by_epoch, unwrapped


@HOOKS.register_module()
class TeacherScheduleHook(Hook):
    """Hook that gives every assistant of a ``DistillClassifier`` an equal part of training.

    Before epoch ``e`` of ``E``, with ``A`` assistants, the hook makes assistant
    ``k = min(floor(e A / E), A - 1)`` active. The main teacher is always active.

    Args:
        by_epoch: Whether ``e`` and ``E`` are epochs. If not, they are iterations. Default
            True.

    Raises:
        ValueError: Before training, if the model has no teachers, or if ``by_epoch`` does
            not match the training loop.

    Source: the training code of Guo et al., "BNext" (2022).
    """

    @checked()
    def __init__(self, by_epoch: bool = True) -> None:
        self.by_epoch = by_epoch

    def before_train(self, runner: Runner) -> None:
        """Find the model with the teachers, and load them."""
        check_by_epoch(runner, self)
        self._model = unwrapped(runner.model)
        if not hasattr(self._model, 'set_teacher'):
            raise ValueError(
                'TeacherScheduleHook: the model has no teachers (it is not a '
                'DistillClassifier): remove the hook'
            )
        self._model.load_teachers()

    def _choose(self, step: int, steps: int) -> None:
        count = self._model.num_assistants
        if count:
            self._model.set_teacher(min(step * count // steps, count - 1))

    def before_train_epoch(self, runner: Runner) -> None:
        """Select the assistant of the epoch that begins."""
        if self.by_epoch:
            self._choose(runner.epoch, runner.max_epochs)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Select the assistant of the iteration that begins."""
        if not self.by_epoch:
            self._choose(runner.iter, runner.max_iters)
