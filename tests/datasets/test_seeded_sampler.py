"""Draws depend only on their number."""

from itertools import islice

import pytest
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from mmesbnn.datasets import SeededConcatDataset, SeededInfiniteSampler
from tests.defaults import torch_default, with_other_defaults


def draws(count, size=5, **kwargs):
    sampler = SeededInfiniteSampler(range(size), **{'seed': 3, **kwargs})
    return list(islice(sampler, count))


def test_every_pass_is_a_permutation_of_its_own():
    indices = [index for index, _ in draws(20)]
    passes = [indices[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_every_draw_has_a_seed_of_its_own():
    seeds = [seed for _, seed in draws(20)]
    assert len(set(seeds)) == 20
    assert not set(seeds) & {seed for _, seed in draws(20, seed=4)}
    assert draws(20) == draws(20)


def test_it_begins_anywhere():
    sampler = SeededInfiniteSampler(range(5), seed=3)
    for start in (0, 1, 5, 13):
        sampler.start = start
        assert list(islice(sampler, 7)) == draws(20)[start : start + 7]


def test_processes_share_the_draws(monkeypatch):
    module = 'mmesbnn.datasets.seeded_sampler.get_dist_info'
    whole = draws(24)
    for rank in range(3):
        monkeypatch.setattr(module, lambda rank=rank: (rank, 3))
        sampler = SeededInfiniteSampler(range(5), seed=3)
        assert list(islice(sampler, 8)) == whole[rank::3]
        sampler.start = 2
        assert list(islice(sampler, 6)) == whole[rank::3][2:]


def test_in_order():
    assert [index for index, _ in draws(7, shuffle=False)] == [0, 1, 2, 3, 4, 0, 1]


def test_empty():
    with pytest.raises(ValueError, match='dataset is empty'):
        SeededInfiniteSampler([])


class Numbers(BaseDataset):
    def load_data_list(self):
        return [dict(number=i) for i in range(3)]


def test_datasets_without_seeds_are_refused():
    plain = Numbers()
    for dataset in (plain, ConcatDataset([plain]), RepeatDataset(plain, times=2)):
        kind = type(dataset).__name__
        with pytest.raises(ValueError, match=f'dataset={kind} has no seeds.*SeededConcatDataset'):
            SeededInfiniteSampler(dataset)


def test_datasets_with_seeds_are_taken():
    class Seeded(Numbers):
        def __getitem__(self, key):
            return key

    for dataset in (Seeded(), SeededConcatDataset([Numbers()])):
        assert SeededInfiniteSampler(dataset).size == 3


@with_other_defaults
def test_draws_do_not_depend_on_the_defaults_of_torch(default):
    expected = draws(20)
    with torch_default(default):
        assert draws(20) == expected
