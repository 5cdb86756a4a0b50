"""An endless sampler whose n-th draw depends on nothing but n."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from ..checks import Rule, checked, integer, optional


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(Sampler[tuple[int, tuple[int, int]]]):
    """Draws ``(index, seed)`` for ever, and can begin anywhere.

    The images are shuffled, pass after pass, as by mmengine's ``InfiniteSampler``.
    Every draw comes with a seed of its own for the dataset's random numbers. So what is
    drawn depends neither on the number of workers nor on what ran before: with
    ``start`` a resumed training goes on as if it had never stopped, and reads nothing
    to skip it. :class:`~mmesbnn.engine.hooks.IterSeedHook` sets it.

    Args:
        dataset: A dataset that takes ``(index, seed)``:
            :class:`~mmesbnn.datasets.PairedSRDataset`, or any others in a
            :class:`~mmesbnn.datasets.SeededConcatDataset`.
        shuffle: Whether to shuffle. Default True.
        seed: Seed of everything; the same on all processes. Default None, a random one.

    Raises:
        ValueError: If the dataset is empty.
    """

    @checked(
        dataset=Rule('a dataset with a length', lambda x: len(x) >= 0), seed=optional(integer(0))
    )
    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.size = len(dataset)
        if not self.size:
            raise ValueError('dataset is empty: there is nothing to draw')
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else int(seed)
        self.rank, self.world_size = get_dist_info()
        #: Draws of this process to leave out.
        self.start = 0

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.size))
        generator = torch.Generator().manual_seed((self.seed + epoch) % 2**63)
        return torch.randperm(self.size, generator=generator).tolist()

    def __iter__(self) -> Iterator[tuple[int, tuple[int, int]]]:
        order, of_epoch = [], -1
        first = self.start * self.world_size + self.rank
        for draw in itertools.count(first, self.world_size):
            epoch, place = divmod(draw, self.size)
            if epoch != of_epoch:
                order, of_epoch = self._order(epoch), epoch
            yield order[place], (self.seed, draw)

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do: the sampler never ends."""
