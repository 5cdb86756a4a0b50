"""Endless sampler whose n-th draw depends on n only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized

import torch
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from ..checks import Rule, checked, integer, optional

#: Methods of mmengine that read an image by a number only.
_BY_NUMBER = {
    kind.__getitem__ for kind in (BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset)
}


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(Sampler[tuple[int, tuple[int, int]]]):
    """Sampler that draws ``(index, seed)`` endlessly and can start at any draw.

    The images are shuffled in every pass, as in mmengine's ``InfiniteSampler``. Every draw
    has its own seed for the dataset's random numbers. The draws therefore depend neither on
    the number of workers nor on earlier runs. With ``start`` a resumed training continues
    as if it had not stopped, without reading the skipped data.
    :class:`~mmesbnn.engine.hooks.IterSeedHook` sets ``start``.

    Args:
        dataset: Dataset with the index ``(index, seed)``:
            :class:`~mmesbnn.datasets.PairedSRDataset`, or any datasets in a
            :class:`~mmesbnn.datasets.SeededConcatDataset`.
        shuffle: Whether to shuffle. Default True.
        seed: Seed of all random numbers, the same on all processes. Default None: a random
            seed.

    Raises:
        ValueError: If the dataset is empty, or if its index is a number, as that of mmpretrain's
            and mmdet's datasets.
    """

    @checked(
        dataset=Rule('a dataset with a length', lambda x: len(x) >= 0), seed=optional(integer(0))
    )
    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.size = len(dataset)
        if not self.size:
            raise ValueError('dataset is empty: there is nothing to draw')
        if getattr(type(dataset), '__getitem__', None) in _BY_NUMBER:
            raise ValueError(
                f'dataset={type(dataset).__name__} has no seeds for its random numbers: put it '
                "into dict(type='SeededConcatDataset', datasets=[...])"
            )
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else int(seed)
        self.rank, self.world_size = get_dist_info()
        #: Number of draws of this process to skip.
        self.start = 0

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.size))
        generator = torch.Generator().manual_seed((self.seed + epoch) % 2**63)
        return torch.randperm(self.size, generator=generator, device='cpu').tolist()

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
        """Do nothing, because the sampler never ends."""
