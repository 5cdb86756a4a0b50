"""Hook that makes random numbers depend on the epoch only."""

from __future__ import annotations

import logging
from functools import partial

from mmengine.dataset import worker_init_fn
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner, set_random_seed

#: Distance of two epochs' seeds, larger than the number of loader workers in any run.
_STRIDE = 100_003


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Hook that seeds this process and the training loader's workers in every epoch.

    ``seed = (run's seed + 100003 epoch) mod 2^31``, plus rank and worker number. mmengine
    does not save the state of random generators. Without the hook, a resumed run draws
    other numbers in this process than an uninterrupted one, and workers draw the same crops
    and flips in every epoch. With the hook and the same ``randomness=dict(seed=...)`` both
    runs give the same losses, and every epoch has different crops. Workers must restart in
    every epoch: set ``persistent_workers=False`` in the loader's config. The hook is for
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
            loader.worker_init_fn = partial(
                worker_init_fn,
                num_workers=loader.num_workers,
                rank=get_rank(),
                seed=seed,
                disable_subprocess_warning=True,
            )
