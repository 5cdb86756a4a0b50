"""Hook that measures the share of binary weights that change their sign."""

from __future__ import annotations

import logging

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ...binary import binary_layers
from ...checks import checked, positive_int
from ..reach import student_and_teacher


@HOOKS.register_module()
class SignFlipHook(Hook):
    """Hook that measures the share of binary weights whose sign changes in an epoch.

    Binary weights learn by changing their sign. A rate that stays high means that the
    learning rate is too large. A rate near 0 means that the weights no longer learn. Signs
    are compared between the beginning and the end of the same epoch, so the hook has no
    state that a training resumed after an epoch would lack.

    It logs ``train/flip_rate``, and the rate of every layer at the level DEBUG. It needs
    one byte per binary weight while it measures. For mmengine, iteration-based training is
    one epoch, so there is one number at its end; if it was resumed, it counts from there. Of
    mmdet's semi-supervised detectors, such as ``SoftTeacher``, the student is measured.

    Args:
        interval: Measure every ``interval``-th epoch. Default 1.

    Raises:
        ValueError: If ``interval`` is not positive; before training, if the model has
            no binary layer.
    """

    @checked(interval=positive_int)
    def __init__(self, interval: int = 1) -> None:
        self.interval = interval
        self._signs: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the binary layers."""
        student, _ = student_and_teacher(runner.model) or (runner.model, None)
        self._layers = binary_layers(student)
        if not self._layers:
            raise ValueError('SignFlipHook: the model has no binary layer: remove the hook')

    @torch.no_grad()
    def _measure(self) -> dict[str, Tensor]:
        # of the effective weight, because some binarizers centre before the sign
        return {name: layer.effective_weight() > 0 for name, layer in self._layers.items()}

    def before_train_epoch(self, runner: Runner) -> None:
        """Keep the signs."""
        if self.every_n_epochs(runner, self.interval):
            self._signs = self._measure()

    def after_train_epoch(self, runner: Runner) -> None:
        """Compare them."""
        if not self._signs:
            return
        before, self._signs = self._signs, {}
        now = self._measure()
        flips = torch.stack([(now[name] != before[name]).sum() for name in now])
        sizes = [signs.numel() for signs in now.values()]
        rate = flips.sum().item() / sum(sizes)
        runner.message_hub.update_scalar('train/flip_rate', rate)
        runner.logger.info(f'Epoch {runner.epoch}: {rate:.3%} of the binary weights flipped')
        if runner.logger.isEnabledFor(logging.DEBUG):
            for name, flipped, size in zip(now, flips.tolist(), sizes, strict=True):
                runner.logger.debug(f'  {name}: {flipped / size:.3%}')
