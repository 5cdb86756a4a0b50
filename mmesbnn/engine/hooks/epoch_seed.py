"""Hook that makes random numbers depend on the epoch only."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from mmengine.dataset import worker_init_fn
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner, set_random_seed

#: Distance of two epochs' seeds, larger than the number of loader workers in any run.
_STRIDE = 100_003


def _seed_and_call(worker: int, own: Callable[[int], Any], **seeds: Any) -> None:
    """Seed a worker, then call the user's function."""
    worker_init_fn(worker, **seeds)
    own(worker)


def _own_function(function: Any) -> Callable[[int], Any] | None:
    """Return the user's part of a loader's ``worker_init_fn``, None if there is none."""
    if not isinstance(function, partial):
        return function
    if function.func is _seed_and_call:  # of the epoch before
        return function.keywords['own']
    return None if function.func is worker_init_fn else function


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Hook that seeds this process and the training loader's workers in every epoch.

    ``seed = (run's seed + 100003 epoch) mod 2^31``, plus rank and worker number. mmengine
    does not save the state of random generators. Without the hook, a resumed run draws
    other numbers in this process than an uninterrupted one, and workers draw the same crops
    and flips in every epoch. With the hook and the same ``randomness=dict(seed=...)`` both
    runs give the same losses, and every epoch has different crops. Workers must restart in
    every epoch: set ``persistent_workers=False`` in the loader's config. A
    ``worker_init_fn`` of the loader's config runs after the seeds are set. The hook is for
    trainings that count epochs; :class:`~mmesbnn.engine.hooks.IterSeedHook` is for those that
    count iterations.
    """

    def before_train(self, runner: Runner) -> None:
        """Warn if a resumed training draws other numbers."""
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            runner.logger.warning(
                'EpochSeedHook: the training counts iterations (IterBasedTrainLoop), so a resumed '
                'run draws the random numbers of the beginning again: use IterSeedHook'
            )
        if getattr(runner.train_dataloader, 'persistent_workers', False):
            runner.logger.log(
                logging.WARNING,
                'EpochSeedHook: persistent_workers=True in train_dataloader: the workers '
                'cannot be seeded in every epoch, so a resumed run will augment its '
                'images in another way',
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed all generators of the epoch."""
        seed = (runner.seed + _STRIDE * runner.epoch) % 2**31
        set_random_seed(seed, diff_rank_seed=True)
        loader = runner.train_dataloader
        if loader.num_workers:
            own = _own_function(loader.worker_init_fn)
            loader.worker_init_fn = partial(
                worker_init_fn if own is None else partial(_seed_and_call, own=own),
                num_workers=loader.num_workers,
                rank=get_rank(),
                seed=seed,
                disable_subprocess_warning=True,
            )
