"""Random numbers that depend on the iteration, not on what ran before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner, set_random_seed

#: Distance of two iterations' seeds: more than there are processes in any run.
_STRIDE = 10_007


class _Skipped:
    """An iterator whose first items, which nobody looks at, cost nothing."""

    def __init__(self, iterator: Iterator[Any], count: int) -> None:
        self.iterator, self.count = iterator, count

    def __iter__(self) -> _Skipped:
        return self

    def __next__(self) -> Any:
        if self.count:
            self.count -= 1
            return None
        return next(self.iterator)


@HOOKS.register_module()
class IterSeedHook(Hook):
    """Makes a resumed training the same as one that nothing interrupted, at once.

    Seeds this process before every iteration, ``seed = (run's seed + 10007 iteration)
    mod 2^31``, plus the rank: mmengine saves no generator's state. And lets the
    training data go on where they stopped: mmengine reads and drops everything that
    was read before, which takes hours late in a long training. For trainings that
    count iterations; :class:`~mmesbnn.engine.hooks.EpochSeedHook` is for the others.

    Raises:
        ValueError: Before training, if this counts epochs, or the sampler of
            ``train_dataloader`` is no ``SeededInfiniteSampler``.
    """

    def before_train(self, runner: Runner) -> None:
        """Take up the training data where they stopped."""
        loop = runner.train_loop
        sampler = getattr(loop.dataloader, 'sampler', None)
        if not isinstance(loop, IterBasedTrainLoop):
            raise ValueError(
                'IterSeedHook: the training counts epochs: use EpochSeedHook, or '
                "train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)"
            )
        if sampler is None or not hasattr(sampler, 'start'):
            raise ValueError(
                f'IterSeedHook: the sampler of train_dataloader is a '
                f"{type(sampler).__name__}: give dict(type='SeededInfiniteSampler')"
            )
        if runner.iter:
            sampler.start = runner.iter * loop.dataloader.batch_size
            loop.dataloader_iterator = _Skipped(iter(loop.dataloader), runner.iter)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Seed everything that the iteration draws from."""
        seed = (runner.seed + _STRIDE * runner.iter) % 2**31
        set_random_seed(seed, diff_rank_seed=True)
