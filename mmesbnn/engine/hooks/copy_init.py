"""How the copies that drop-in layers make start."""

from __future__ import annotations

from typing import Any

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ...binary import start_copies
from ...binary.arguments import COPY_INIT
from ...binary.expansion import copy_signs
from ...checks import checked
from ..tensor_mode import tensor_mode


def _agreed_signs(channels: int, copies: int, copy_init: str) -> Tensor:
    """Signs of the copies, in all processes those of the first one."""
    signs = copy_signs(channels, copies, copy_init)
    dist.broadcast(signs)
    return signs


@HOOKS.register_module()
class CopyInitHook(Hook):
    """Let the copies of drop-in layers start with gains of +-1.

    For networks that take :class:`~mmesbnn.binary.ESConv2d` by their ``conv_cfg``: a
    drop-in layer has nothing of its own for every copy, but the batch norm behind it
    has. Before the first iteration the hook runs the model on the first batch, without
    gradients, to see which norm reads which layer, and calls
    :func:`~mmesbnn.binary.start_copies`. Backbones of this package have their own
    ``copy_init``. Resumed trainings are left alone, and so are norms whose gains differ
    from each other, as loaded ones do.

    Args:
        copy_init: ``'signs'``: every gain gets a random sign; ``'balanced'``: of the
            copies of every channel ``tau // 2`` are negative. Default ``'balanced'``.

    Raises:
        ValueError: If ``copy_init`` is not one of the allowed values; before the first
            iteration, if no batch norm reads a drop-in layer with ``tau > 1``.
    """

    @checked(copy_init=COPY_INIT)
    def __init__(self, copy_init: str = 'balanced') -> None:
        self.copy_init = copy_init

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict[str, Any] | None = None
    ) -> None:
        """Start the copies, if it is the first iteration."""
        if runner.iter or self.copy_init == 'alike':
            return
        run = tensor_mode(runner.model, data_batch)
        started = start_copies(runner.model, self.copy_init, run, _agreed_signs)
        alike = [name for name, done in started.items() if not done]
        if len(alike) == len(started):
            raise ValueError(
                f'copy_init={self.copy_init!r}: no new batch norm alone reads a drop-in '
                'layer with tau > 1: remove CopyInitHook'
            )
        runner.logger.info(
            f'CopyInitHook: copies of {len(started) - len(alike)} layers start with gains '
            f'of +-1 ({self.copy_init}); alike start those of: {", ".join(alike) or "none"}'
        )
