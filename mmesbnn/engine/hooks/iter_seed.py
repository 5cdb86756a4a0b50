"""Hook that makes random numbers depend on the iteration only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner, set_random_seed

#: Distance of two iterations' seeds, larger than the number of processes in any run.
_STRIDE = 10_007


class _Skipped:
    """Iterator that skips its first items without reading them."""

    def __init__(self, iterator: Iterator[Any], count: int) -> None:
        self.iterator, self.count = iterator, count

    def __iter__(self) -> _Skipped:
        return self

    def __next__(self) -> Any:
        if self.count:
            self.count -= 1
            return None
        return next(self.iterator)

    def skip_iter(self, count: int) -> None:
        """Skip items. onedl-mmengine 0.10.12 calls this once, mmengine calls ``next`` for each."""
        for _ in range(count):
            next(self)


@HOOKS.register_module()
class IterSeedHook(Hook):
    """Hook that makes a resumed training equal to an uninterrupted one, without delay.

    It seeds this process before every iteration with ``seed = (run's seed + 10007
    iteration) mod 2^31``, plus the rank, because mmengine does not save the state of random
    generators. It also continues the training data where they stopped. mmengine would read
    and drop all earlier data, which takes hours late in a long training. The hook is for
    trainings that count iterations; :class:`~mmesbnn.engine.hooks.EpochSeedHook` is for
    those that count epochs.

    Raises:
        ValueError: Before training, if the training counts epochs, or if
            ``train_dataloader`` has a ``batch_sampler``, or a ``sampler`` that is not a
            ``SeededInfiniteSampler``.
    """

    def before_train(self, runner: Runner) -> None:
        """Continue the training data where they stopped."""
        loop = runner.train_loop
        sampler = getattr(loop.dataloader, 'sampler', None)
        if not isinstance(loop, IterBasedTrainLoop):
            raise ValueError(
                'IterSeedHook: the training counts epochs: use EpochSeedHook, or '
                "train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)"
            )
        if sampler is not None and loop.dataloader.batch_size is None:  # torch's own sampler
            batches = type(loop.dataloader.batch_sampler).__name__
            raise ValueError(
                f'IterSeedHook: train_dataloader has the batch_sampler {batches}, and the hook '
                'cannot continue its batches: remove it from train_dataloader'
            )
        if sampler is None or not hasattr(sampler, 'start'):
            raise ValueError(
                f'IterSeedHook: the sampler of train_dataloader is a '
                f"{type(sampler).__name__}: use dict(type='SeededInfiniteSampler')"
            )
        if runner.iter:
            sampler.start = runner.iter * loop.dataloader.batch_size
            loop.dataloader_iterator = _Skipped(iter(loop.dataloader), runner.iter)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Seed all generators of the iteration."""
        seed = (runner.seed + _STRIDE * runner.iter) % 2**31
        set_random_seed(seed, diff_rank_seed=True)
