"""The temperature under which BNext's weights harden to signs."""

from __future__ import annotations

import math

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ...binary import TemperatureWeight
from ..reach import (
    binary_layers,
    check_by_epoch,
    temperature_weights,
    trained_models,
)

#: With ``by_epoch=False``, iterations between two counts of the binary weights.
COUNT_EVERY = 1000


def decay_until(binary_from: int, initial: float, below: float) -> float:
    """Factor per step with which ``T < below`` from step ``binary_from`` on.

    Args:
        binary_from: First step, counted from 0, at which weights are binary.
        initial: Temperature of step 0.
        below: Temperature under which weights are binary.
    """
    # T = below half a step earlier, so that rounding cannot shift the step
    return math.exp(math.log(below / initial) / (binary_from - 0.5))


@torch.no_grad()
def binary_share(model: nn.Module) -> float:
    """Share of the weights with a temperature that are exactly +-1 now.

    Counted over the effective weights: +-1 where ``|w / T| >= 1``, and everywhere once
    ``T < binary_below``.

    Args:
        model: Any module; 1 if none of its layers has a temperature.
    """
    counts, total = [], 0
    for layer in binary_layers(model).values():
        if isinstance(layer.weight_binarizer, TemperatureWeight):
            counts.append((layer.effective_weight().abs() == 1).sum())
            total += layer.weight.numel()
    return torch.stack(counts).sum().item() / total if counts else 1.0


@HOOKS.register_module()
class TemperatureHook(Hook):
    """Lower the temperature of all binary weights, ``T = initial * decay^e``.

    Sets every :class:`~mmesbnn.binary.TemperatureWeight` of the model, and of its
    moving average if there is one, before epoch ``e`` (counted from 0), which then
    trains and validates at that temperature. It depends on ``e`` alone, so a resumed
    training goes on exactly. Weights are exactly +-1 once ``T`` is below every layer's
    ``binary_below``: with the published decay from epoch 153 on (110 for BNext-18).
    A training that ends before leaves weights that are not binary, which gets a warning
    at its beginning and at its end.

    Logs ``train/temperature`` and, counted when an epoch begins (every 1000 iterations
    if not ``by_epoch``), ``train/binary_weights``, the share of weights that are +-1.

    Args:
        decay: Factor per epoch, between 0 and 1. Default 0.9, as published, unless
            ``binary_from`` is given.
        initial: Temperature of epoch 0. Default 1.
        by_epoch: Whether ``e`` counts epochs, rather than iterations. Default True.
        binary_from: Instead of ``decay``: the first ``e`` at which all weights are
            exactly +-1. ``decay`` is computed from it. Default None.

    Raises:
        ValueError: If ``decay`` and ``binary_from`` are both given or out of range, or
            ``initial`` is; before training, if the model has no such weights, or
            ``by_epoch`` does not fit the training loop.

    Source: Guo et al., "BNext" (2022). The published ES code looked for another class
    and reached no layer, so its weights never hardened.
    """

    def __init__(
        self, decay: float | None = None, initial: float = 1.0, by_epoch: bool = True,
        binary_from: int | None = None,
    ) -> None:  # fmt: skip
        if decay is not None and binary_from is not None:
            raise ValueError(
                f'decay={decay}, binary_from={binary_from}: give one of them'
            )
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f'decay={decay!r} must be between 0 and 1')
        if binary_from is not None and not binary_from >= 1:
            raise ValueError(f'binary_from={binary_from!r} must be at least 1')
        if not (math.isfinite(initial) and initial > 0):
            raise ValueError(f'initial={initial!r} must be positive')
        self.decay = 0.9 if decay is None and binary_from is None else decay
        self.initial = initial
        self.by_epoch = by_epoch
        self.binary_from = binary_from

    def before_train(self, runner: Runner) -> None:
        """Find the weights, and compute what is not given."""
        check_by_epoch(runner, self)
        found = temperature_weights(runner.model)
        if not found:
            raise ValueError(
                'TemperatureHook: the model has no weights with a temperature '
                "(weight_binarizer='temperature'): remove the hook"
            )
        self._weights = [
            weight
            for model in trained_models(runner)
            for weight in temperature_weights(model)
        ]
        self._schedule(min(weight.binary_below for weight in found))
        steps = runner.max_epochs if self.by_epoch else runner.max_iters
        if self.binary_from >= steps:
            runner.logger.warning(
                f'TemperatureHook: weights become exactly binary at {self._unit} '
                f'{self.binary_from}, after the last one, {steps - 1}: {self._advice}'
            )

    def _schedule(self, below: float) -> None:
        """Compute decay from ``binary_from`` or the other way round."""
        if not self.initial > below:
            raise ValueError(
                f'initial={self.initial} must be above the temperature under which '
                f'weights are binary, {below}'
            )
        if self.decay is None:
            self.decay = decay_until(self.binary_from, self.initial, below)
        elif self.binary_from is None:
            hardening = math.log(below / self.initial)
            self.binary_from = math.floor(hardening / math.log(self.decay)) + 1

    @property
    def _unit(self) -> str:
        return 'epoch' if self.by_epoch else 'iteration'

    @property
    def _advice(self) -> str:
        return (
            f'train for more than {self.binary_from} {self._unit}s, or set an earlier '
            'binary_from'
        )

    def temperature(self, step: int) -> float:
        """Temperature of epoch (or iteration) ``step``, counted from 0."""
        return self.initial * self.decay**step

    def _set(self, runner: Runner, step: int) -> float:
        value = self.temperature(step)
        for weight in self._weights:
            weight.temperature.fill_(value)
        runner.message_hub.update_scalar('train/temperature', value)
        return value

    def _count(self, runner: Runner) -> float:
        share = binary_share(runner.model)
        runner.message_hub.update_scalar('train/binary_weights', share)
        return share

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the temperature of the epoch that begins."""
        if not self.by_epoch:
            return
        value, share = self._set(runner, runner.epoch), self._count(runner)
        runner.logger.info(
            f'Epoch {runner.epoch}: temperature {value:.4g}, {share:.2%} of the binary '
            'weights are exactly +-1'
        )

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Set the temperature of the iteration that begins."""
        if self.by_epoch:
            return
        self._set(runner, runner.iter)
        if runner.iter % COUNT_EVERY == 0:
            self._count(runner)

    def after_train(self, runner: Runner) -> None:
        """Warn if the weights are not binary yet."""
        share = self._count(runner)
        if share < 1:
            runner.logger.warning(
                f'TemperatureHook: training ended with {share:.2%} of the binary '
                f'weights exactly +-1, so the model is not binary yet: {self._advice}'
            )
