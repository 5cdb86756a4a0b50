"""Hook that stops training when the loss is no longer finite."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from mmengine.dist import all_gather
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ...checks import checked, positive_int


def losses_of(outputs: dict[str, Any] | None) -> dict[str, Any]:
    """Return the entries of a step's ``outputs`` that are losses."""
    return {name: loss for name, loss in (outputs or {}).items() if 'loss' in name}


def total(losses: dict[str, Any]) -> Tensor:
    """Sum the losses on their device; the sum is finite only if all losses are."""
    sums = (torch.as_tensor(loss).detach().float().sum() for loss in losses.values())
    return torch.as_tensor(sum(sums))


@HOOKS.register_module()
class NaNGuardHook(Hook):
    """Hook that stops the training when a loss is NaN or infinite.

    Every loss is checked on the device, without waiting for it. The hook reads the result
    every ``interval`` iterations and at the end of an epoch and of the training, on all
    processes together. The error is the same on all processes. It names the first bad
    iteration of any process, the rank of that process, and the last checkpoint before it.

    The hook reads before a checkpoint of the same iteration is written. The interval of
    iteration-based checkpoints must therefore be a multiple of ``interval``.

    Args:
        interval: Number of iterations between two readings. Default 50.

    Raises:
        ValueError: If ``interval`` is not positive.
        FloatingPointError: While training, if a loss is not finite.
    """

    # after the loggers, and before CheckpointHook (VERY_LOW) overwrites the last good file
    priority = 'LOW'

    @checked(interval=positive_int)
    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._record: Tensor | None = None

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Check the losses of an iteration."""
        losses = losses_of(outputs)
        if losses:
            self._note(runner.iter, total(losses))
        last = self.is_last_train_iter(runner)
        if last or self.every_n_train_iters(runner, self.interval):
            self._check(runner, losses)

    def after_train_epoch(self, runner: Runner) -> None:
        """Read the result before the epoch's checkpoint is written."""
        self._check(runner, {})

    def _note(self, iteration: int, loss: Tensor) -> None:
        """Record iteration and loss, until the first bad loss is recorded."""
        new = torch.stack([torch.full_like(loss, iteration), loss])
        if self._record is not None:
            new = torch.where(self._record[1].isfinite(), new, self._record)
        self._record = new

    def _check(self, runner: Runner, losses: dict[str, Any]) -> None:
        if self._record is None:
            return
        records = all_gather(self._record)
        found = [
            (int(iteration), rank, loss)
            for rank, (iteration, loss) in enumerate(r.tolist() for r in records)
            if not isfinite(loss)
        ]
        if not found:
            return
        iteration, rank, loss = min(found, key=lambda first: first[:2])
        where = f' on process {rank}' if len(records) > 1 else ''
        values = {name: total({name: loss}).item() for name, loss in losses.items()}
        now = ', '.join(f'{name}={value}' for name, value in values.items() if not isfinite(value))
        saved = runner.message_hub.get_info('last_ckpt') or 'none'
        raise FloatingPointError(
            f'iteration {iteration}: the loss became {loss}{where}'
            f'{f" (now {now})" if now else ""}. Last checkpoint before it: {saved}'
        )
