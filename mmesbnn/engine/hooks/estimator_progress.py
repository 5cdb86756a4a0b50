"""Hook that schedules signs and weight binarizers that change during training."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...binary.progress import Scheduled
from ...checks import checked
from ..reach import check_by_epoch, trained_models


@HOOKS.register_module()
class EstimatorProgressHook(Hook):
    """Hook that sets the progress of scheduled signs and weight binarizers.

    These are ``'ede'``, ``'reste'``, ``'fda'``, ``'balanced'`` and ``'recu'``, in the model and
    in its moving average. The progress of epoch ``e`` of ``E``, counted from 0, is
    ``e / (E - 1)``. It depends on ``e`` only, so a resumed training continues exactly. It logs
    ``train/estimator_progress``.

    Args:
        by_epoch: Whether ``e`` counts epochs. If not, it counts iterations. Default True.

    Raises:
        ValueError: Before training, if the model has no scheduled module, or if ``by_epoch``
            does not match the training loop.
    """

    @checked()
    def __init__(self, by_epoch: bool = True) -> None:
        self.by_epoch = by_epoch

    def before_train(self, runner: Runner) -> None:
        """Find the scheduled modules."""
        check_by_epoch(runner, self)
        self._scheduled = [
            module
            for model in trained_models(runner)
            for module in model.modules()
            if isinstance(module, Scheduled)
        ]
        if not self._scheduled:
            raise ValueError(
                'EstimatorProgressHook: the model has no sign and no weight binarizer with a '
                'schedule: remove the hook'
            )

    def _set(self, runner: Runner, step: int, steps: int) -> None:
        progress = min(step / max(steps - 1, 1), 1.0)
        for module in self._scheduled:
            module.progress.fill_(progress)
        runner.message_hub.update_scalar('train/estimator_progress', progress)

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the progress of the epoch that begins."""
        if self.by_epoch:
            self._set(runner, runner.epoch, runner.max_epochs)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Set the progress of the iteration that begins."""
        if not self.by_epoch:
            self._set(runner, runner.iter, runner.max_iters)
