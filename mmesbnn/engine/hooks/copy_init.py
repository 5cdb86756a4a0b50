"""Hook that sets the initial gains of the copies of drop-in layers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ...binary import start_copies
from ...binary.arguments import COPY_INIT
from ...binary.expansion import copy_signs
from ...checks import checked
from ..reach import student_and_teacher
from ..tensor_mode import tensor_mode


def _agreed_signs(channels: int, copies: int, copy_init: str) -> Tensor:
    """Draw the signs of the copies; all processes get those of the first process."""
    signs = copy_signs(channels, copies, copy_init)
    dist.broadcast(signs)
    return signs


def _follow(teacher: nn.Module, student: nn.Module, before: dict[str, Tensor]) -> None:
    """Give a teacher the values that changed in its student, where both were equal before."""
    own = teacher.state_dict()
    for name, value in student.state_dict().items():
        if name in own and torch.equal(own[name], before[name]):
            own[name].copy_(value)


@HOOKS.register_module()
class CopyInitHook(Hook):
    """Hook that sets the initial gains of the copies of drop-in layers to +-1.

    It is for networks that use :class:`~mmesbnn.binary.ESConv2d` through ``conv_cfg``. A
    drop-in layer has no parameters of its own for each copy, but the batch norm that reads
    it has. Before the first iteration the hook runs the model on the first batch, without
    gradients, to find the norm that reads each layer. It then calls
    :func:`~mmesbnn.binary.start_copies`. Backbones of this package have their own
    ``copy_init``. The hook does not change resumed trainings, nor norms whose gains differ
    from each other, such as loaded ones. The teacher of mmdet's semi-supervised detectors gets
    the gains of its student.

    Args:
        copy_init: With ``'signs'`` every gain gets a random sign. With ``'balanced'``
            ``tau // 2`` of the copies of every channel get a negative gain. Default
            ``'balanced'``.

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
        """Set the gains before the first iteration."""
        if runner.iter or self.copy_init == 'alike':
            return
        run = tensor_mode(runner.model, data_batch)
        student, teacher = student_and_teacher(runner.model) or (runner.model, None)
        before = copy.deepcopy(student.state_dict()) if teacher else {}
        started = start_copies(student, self.copy_init, run, _agreed_signs)
        if teacher:
            _follow(teacher, student, before)
        alike = [name for name, done in started.items() if not done]
        if len(alike) == len(started):
            raise ValueError(
                f'copy_init={self.copy_init!r}: no new batch norm alone reads a drop-in '
                'layer with tau > 1: remove CopyInitHook'
            )
        runner.logger.info(
            f'CopyInitHook: copies of {len(started) - len(alike)} layers start with gains '
            f'of +-1 ({self.copy_init}); these start alike: {", ".join(alike) or "none"}'
        )
