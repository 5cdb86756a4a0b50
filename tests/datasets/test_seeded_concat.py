"""Random transforms depend only on the number of the draw."""

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from torch.utils.data import DataLoader

from mmesbnn.datasets import SeededConcatDataset, SeededInfiniteSampler


def draw(sample):
    """A transform that uses all generators."""
    return sample['number'], random.random(), np.random.rand(), torch.rand(1).item()


class Numbers(BaseDataset):
    def __init__(self, start, size):
        self.start, self.size = start, size
        super().__init__(pipeline=[draw])

    def load_data_list(self):
        return [dict(number=self.start + i) for i in range(self.size)]


@pytest.fixture
def dataset():
    return SeededConcatDataset([Numbers(0, 3), Numbers(10, 4)])


def batches(dataset, count, workers=0, start=0):
    sampler = SeededInfiniteSampler(dataset, seed=3)
    sampler.start = 2 * start
    loader = DataLoader(dataset, 2, sampler=sampler, num_workers=workers, collate_fn=list)
    batches = iter(loader)
    return [next(batches) for _ in range(count)]


def test_workers_and_interruptions_change_nothing(dataset):
    expected = batches(dataset, 8)
    flat = [sample for batch in expected for sample in batch]
    assert {sample[0] for sample in flat} == {0, 1, 2, 10, 11, 12, 13}
    assert all(len({sample[i] for sample in flat}) == 16 for i in (1, 2, 3))
    torch.manual_seed(9)
    assert batches(dataset, 8, workers=2) == expected
    assert batches(dataset, 3, workers=1, start=5) == expected[5:]


def test_an_index_alone(dataset):
    assert dataset[4][0] == 11
    assert dataset[4] != dataset[4]
    assert dataset[4, (1, 2)] == dataset[4, (1, 2)] != dataset[4, (1, 3)]


@pytest.mark.parametrize('datasets', [3, [], [3], {'type': 'BaseDataset'}])
def test_datasets_are_checked(datasets):
    with pytest.raises(ValueError, match=r'datasets=.* must be a list of 1 or more values, each a'):
        SeededConcatDataset(datasets)
