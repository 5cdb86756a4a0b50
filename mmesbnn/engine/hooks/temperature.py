"""Hook that lowers the temperature at which BNext's weights become signs."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ...binary import TemperatureWeight, binary_layers
from ...checks import checked, number, optional, positive, positive_int
from ..reach import check_by_epoch, temperature_weights, trained_models, unit_of
from ..temperature_schedule import temperature_schedule

#: Temperature of a layer before training.
FRESH = 1.0

#: Number of iterations between two counts of the binary weights, with ``by_epoch=False``.
COUNT_EVERY = 1000


@torch.no_grad()
def binary_share(model: nn.Module) -> float:
    """Return the share of the weights with a temperature that are exactly +-1.

    It is counted over the effective weights: these are +-1 where ``|w / T| >= 1``, and
    everywhere if ``T < binary_below``.

    Args:
        model: Any module. The result is 1 if no layer has a temperature.
    """
    counts, total = [], 0
    for layer in binary_layers(model).values():
        if isinstance(layer.weight_binarizer, TemperatureWeight):
            counts.append((layer.effective_weight().abs() == 1).sum())
            total += layer.weight.numel()
    return torch.stack(counts).sum().item() / total if counts else 1.0


@HOOKS.register_module()
class TemperatureHook(Hook):
    """Hook that lowers the temperature of all binary weights, ``T = initial * decay^e``.

    Before epoch ``e`` (counted from 0) it sets every
    :class:`~mmesbnn.binary.TemperatureWeight` of the model, and of its moving average if
    there is one. The epoch trains and validates at that temperature. The temperature
    depends on ``e`` only, so a resumed training continues exactly. Weights are exactly +-1
    once ``T`` is below every layer's ``binary_below``: with the published decay from epoch
    153 on (110 for BNext-18). A training that ends earlier leaves weights that are not
    binary. The hook warns of this at the beginning and at the end of the training, and when
    such weights are tested.

    A layer of a checkpoint may have a lower temperature than the schedule. It keeps this
    temperature until the schedule falls below it, and the log says so, because a higher
    temperature would undo the earlier training. Fine-tuning therefore keeps a binary
    network binary, and so does training a new detector on a trained backbone.

    It logs ``train/temperature``. It also logs ``train/binary_weights``, the share of
    weights that are +-1, counted at the beginning of an epoch (every 1000 iterations if not
    ``by_epoch``).

    Args:
        decay: Factor per epoch, between 0 and 1. Default 0.9, as published, unless
            ``binary_from`` is given.
        initial: Temperature of epoch 0. If it is below every layer's ``binary_below``, for
            example 1e-8, the weights are always binary. Default 1.
        by_epoch: Whether ``e`` counts epochs. If not, it counts iterations. Default True.
        binary_from: First ``e`` at which all weights are exactly +-1. It replaces
            ``decay``, which is computed from it. Default None.
        soften: Whether loaded weights with a lower temperature follow the schedule, too.
            Default False.

    Raises:
        ValueError: If ``decay`` and ``binary_from`` are both given, or if ``decay``,
            ``binary_from`` or ``initial`` is out of range; before training, if the model
            has no such weights, if ``binary_from`` is given with an ``initial`` at which
            weights are binary, or if ``by_epoch`` does not match the training loop.

    Source: Guo et al., "BNext" (2022). The published ES code searches for another class and
    finds no layer, so its weights stay real.
    """

    @checked(
        decay=optional(number(above=0, below=1)),
        initial=positive,
        binary_from=optional(positive_int),
    )
    def __init__(
        self,
        decay: float | None = None,
        initial: float = 1.0,
        by_epoch: bool = True,
        binary_from: int | None = None,
        soften: bool = False,
    ) -> None:
        if decay is not None and binary_from is not None:
            raise ValueError(f'decay={decay}, binary_from={binary_from}: give one of them')
        self.decay = 0.9 if decay is None and binary_from is None else decay
        self.initial = initial
        self.by_epoch = by_epoch
        self.binary_from = binary_from
        self.soften = soften

    def before_train(self, runner: Runner) -> None:
        """Find the weights, and complete the schedule."""
        check_by_epoch(runner, self)
        weights = temperature_weights(runner.model)
        if not weights:
            raise ValueError(
                'TemperatureHook: the model has no weights with a temperature '
                "(weight_binarizer='temperature'): remove the hook"
            )
        self.schedule = temperature_schedule(
            min(weight.binary_below for weight in weights),
            initial=self.initial,
            decay=self.decay,
            binary_from=self.binary_from,
        )
        limits = self._limits(runner, weights)
        self._weights = [
            pair
            for model in trained_models(runner)
            for pair in zip(temperature_weights(model), limits, strict=True)
        ]
        steps = runner.max_epochs if self.by_epoch else runner.max_iters
        last = self.schedule.temperature(steps - 1)
        pairs = zip(weights, limits)
        if any(min(limit, last) >= weight.binary_below for weight, limit in pairs):
            runner.logger.warning(
                f'TemperatureHook: weights become exactly binary at {unit_of(self)} '
                f'{self.schedule.binary_from}, after the last one, {steps - 1}: {self._advice}'
            )

    def _limits(self, runner: Runner, weights: list[TemperatureWeight]) -> list[float]:
        """Return the temperature that each weight must not exceed: its loaded temperature."""
        step = runner.epoch if self.by_epoch else runner.iter
        planned = self.schedule.temperature(step)
        loaded = [weight.temperature.item() for weight in weights]
        # a new layer has 1; a resumed layer has the last temperature of the schedule
        harder = [t < FRESH and t < planned * (1 - 1e-6) for t in loaded]
        if not any(harder):
            return [math.inf] * len(weights)
        hardest = min(loaded)
        what = (
            f'{sum(harder)} of {len(weights)} layers have loaded weights that are harder '
            f'(temperature {hardest:.3g}) than {unit_of(self)} {step} of the schedule '
            f'({planned:.3g})'
        )
        if self.soften:
            runner.logger.warning(
                f'TemperatureHook: {what}: soften=True, so they are softened to it, '
                'and a binary network among them starts anew'
            )
            return [math.inf] * len(weights)
        runner.logger.info(
            f'TemperatureHook: {what}: they stay as hard as they are until the '
            'schedule gets there (soften=True would soften them)'
        )
        return [t if is_harder else math.inf for t, is_harder in zip(loaded, harder)]

    @property
    def _advice(self) -> str:
        return (
            f'train for more than {self.schedule.binary_from} {unit_of(self)}s, '
            'or set an earlier binary_from'
        )

    def _set(self, runner: Runner, step: int) -> float:
        value = self.schedule.temperature(step)
        temperatures = [min(value, limit) for _, limit in self._weights]
        for (weight, _), temperature in zip(self._weights, temperatures):
            weight.temperature.fill_(temperature)
        softest = max(temperatures)
        runner.message_hub.update_scalar('train/temperature', softest)
        return softest

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

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
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

    def before_test(self, runner: Runner) -> None:
        """Warn if the tested weights are not binary."""
        share = binary_share(runner.model)
        if share < 1:
            runner.logger.warning(
                f'TemperatureHook: only {share:.2%} of the binary weights of the '
                'tested model are exactly +-1: its scores are those of a network that '
                'is not binary yet'
            )
