"""Similarity of copies while a network trains."""

from __future__ import annotations

import copy
from statistics import fmean
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...analysis.capacity import POSITIONS, LayerCapacity, measure_capacity
from ...binary import binary_layers
from ...checks import checked, flag, positive_int
from ...plots.capacity import CORRELATION, RANK
from ..tensor_mode import tensor_mode


@HOOKS.register_module()
class CopyDiversityHook(Hook):
    """Measure the similarity of copies in ES layers, always on the same batch.

    Let ``r_ij`` be the correlations of the ``C`` channels of signs that a layer reads,
    over pixels and images::

        copy correlation = mean |r_ij|, i != j copies of one channel
        effective rank   = (sum_i r_ii)^2 / sum_ij r_ij^2

    Copies with a correlation of 1 add no rank: the layer is no better than one without
    copies. See :mod:`mmesbnn.analysis.capacity`.

    The batch is the first one that the hook gets; a resumed training takes the first one
    after it resumed. The network runs on it in eval mode without gradients; batch norms use
    the statistics of the batch. It runs before the first iteration, and after every
    ``interval``-th epoch or iteration. A measurement costs one inference, and
    ``positions C^2`` multiplications per layer.

    The hook logs the means over layers, ``train/copy_correlation`` and
    ``train/rank_share``, the rank divided by ``C``. The visualizer gets
    ``copies/correlation/NAME`` and ``copies/rank_share/NAME`` of every layer;
    :func:`mmesbnn.plots.capacity.draw_copies` draws these. Layers without copies have no
    correlation.

    Args:
        interval: Number of epochs or iterations between measurements. Default 1.
        by_epoch: Whether ``interval`` counts epochs. False: it counts iterations.
            Iteration-based training has a single epoch. Default True.
        positions: Number of pixels or tokens of a layer that are measured, see
            :func:`mmesbnn.analysis.measure_capacity`. Default 4096.

    Raises:
        ValueError: If an argument is not one of the allowed values; before training, if
            the model has no binary layer.
    """

    @checked(interval=positive_int, by_epoch=flag, positions=positive_int)
    def __init__(
        self, interval: int = 1, by_epoch: bool = True, positions: int = POSITIONS
    ) -> None:
        self.interval = interval
        self.by_epoch = by_epoch
        self.positions = positions
        self._batch: Any = None

    def before_train(self, runner: Runner) -> None:
        """Check that the model has a binary layer."""
        if not binary_layers(runner.model):
            raise ValueError('CopyDiversityHook: the model has no binary layer: remove the hook')

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict[str, Any] | None = None
    ) -> None:
        """Keep the first batch and measure on it."""
        if self._batch is None:
            self._batch = copy.deepcopy(data_batch)
            self._measure(runner)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Measure, if ``interval`` counts iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._measure(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Measure, if ``interval`` counts epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._measure(runner)

    def _measure(self, runner: Runner, step: int | None = None) -> None:
        run = tensor_mode(runner.model, self._batch)
        found = measure_capacity(runner.model, run, self.positions, batch_statistics=True)
        step = runner.iter if step is None else step
        alike = [x.copy_correlation for x in found if x.copy_correlation is not None]
        shares = [x.rank / x.channels for x in found]
        if alike:
            runner.message_hub.update_scalar('train/copy_correlation', fmean(alike))
        runner.message_hub.update_scalar('train/rank_share', fmean(shares))
        runner.visualizer.add_scalars(_by_layer(found), step)


def _by_layer(found: list[LayerCapacity]) -> dict[str, float]:
    scalars = {RANK + x.name: x.rank / x.channels for x in found}
    scalars.update(
        {CORRELATION + x.name: x.copy_correlation for x in found if x.copy_correlation is not None}
    )
    return scalars
