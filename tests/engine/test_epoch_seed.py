"""Random numbers of an epoch depend only on the run's seed and the epoch."""

import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from mmesbnn.engine.hooks import EpochSeedHook
from tests.engine import toy


def draw():
    """Draw a number from each generator that augmentations use."""
    return [torch.rand(()).item(), np.random.rand(), random.random()]


class RandomImages(torch.utils.data.Dataset):
    """Images whose first three values are random numbers, drawn when they are read."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image = torch.zeros(3, 8, 8, dtype=torch.float64)
        image.view(-1)[:3] = torch.tensor(draw(), dtype=torch.float64)
        return dict(inputs=image, labels=index % 4)


class Waste(Hook):
    """Draw random numbers between the epochs, like a validation."""

    def after_train_epoch(self, runner):
        draw()


class FloatClassifier(toy.ToyClassifier):
    def forward(self, inputs, labels=None, mode='tensor'):
        return super().forward(inputs.float(), labels, mode)


class Numbers(Hook):
    """The random numbers of the main process and of the workers, by epoch."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.main, self.worker = {}, {}

    def before_train_epoch(self, runner):
        self.worker[runner.epoch] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.main.setdefault(runner.epoch, draw())
        numbers = data_batch['inputs'].flatten(1)[:, :3]
        self.worker[runner.epoch] += numbers.tolist()


def train(work_dir, seed=5, hooks=(), workers=1, epochs=3, **kwargs):
    numbers = Numbers()
    loader = {**toy.loader(RandomImages()), 'num_workers': workers}
    runner = toy.runner(
        work_dir,
        [EpochSeedHook(), numbers, *hooks],
        model=FloatClassifier(),
        epochs=epochs,
        train_dataloader={**loader, **kwargs.pop('loader', {})},
        randomness=dict(seed=seed),
        **kwargs,
    )
    runner.train()
    return numbers


@pytest.mark.parametrize('workers', [0, 1, 2])
def test_what_ran_before_does_not_matter(tmp_path, workers):
    torch.rand(7)
    plain = train(tmp_path / 'plain', workers=workers)
    other = train(tmp_path / 'other', workers=workers, hooks=[Waste()])
    assert plain.main == other.main
    assert plain.worker == other.worker
    assert len(plain.worker[2]) == 4


@pytest.mark.parametrize('workers', [0, 1])
def test_every_epoch_and_every_seed_draws_other_numbers(tmp_path, workers):
    runs = [train(tmp_path / str(seed), seed=seed, workers=workers, epochs=2) for seed in (5, 6)]
    main = [value for run in runs for value in run.main.values()]
    worker = [row for run in runs for rows in run.worker.values() for row in rows]
    for rows, count in ((main, 4), (worker, 16)):
        for generator in zip(*rows):
            assert len(set(generator)) == count


def test_two_workers_draw_other_numbers(tmp_path):
    numbers = train(tmp_path, workers=2, epochs=1, loader=dict(batch_size=2))
    for generator in zip(*numbers.worker[0]):
        assert len(set(generator)) == 4


def test_without_the_hook_it_matters(tmp_path, monkeypatch):
    # shows that the tests above can fail
    monkeypatch.setattr(EpochSeedHook, 'before_train_epoch', lambda *_: None)
    plain = train(tmp_path / 'plain', workers=0)
    other = train(tmp_path / 'other', workers=0, hooks=[Waste()])
    assert plain.main[0] == other.main[0]
    assert plain.main[1] != other.main[1]


def test_resuming_draws_what_the_whole_training_drew(tmp_path):
    saving = dict(checkpoint=dict(type='CheckpointHook', interval=1))
    whole = train(tmp_path / 'whole', default_hooks=saving)
    train(tmp_path / 'parts', epochs=1, default_hooks=saving)
    last = str(tmp_path / 'parts' / 'epoch_1.pth')
    rest = train(tmp_path / 'parts', default_hooks=saving, resume=True, load_from=last)
    assert list(rest.worker) == [1, 2]
    for epoch in (1, 2):
        assert rest.worker[epoch] == whole.worker[epoch]
        assert rest.main[epoch] == whole.main[epoch]


def test_the_largest_seed(tmp_path):
    numbers = train(tmp_path, seed=2**31 - 1, epochs=2)
    assert numbers.main[0] != numbers.main[1]


def test_without_the_hook_workers_repeat_their_numbers(tmp_path, monkeypatch):
    # the reason why the hook also seeds the workers
    monkeypatch.setattr(EpochSeedHook, 'before_train_epoch', lambda *_: None)
    numbers = train(tmp_path, epochs=2)
    assert numbers.worker[0] == numbers.worker[1]


@pytest.mark.parametrize('persistent', [False, True])
def test_persistent_workers_get_a_warning(tmp_path, persistent):
    train(tmp_path, epochs=1, loader=dict(persistent_workers=persistent))
    warned = 'EpochSeedHook: persistent_workers=True in train_dataloader'
    assert (warned in toy.log_of(tmp_path)) == persistent


@pytest.mark.parametrize('by_epoch', [False, True])
def test_a_training_that_counts_iterations_gets_a_warning(tmp_path, by_epoch):
    runner = toy.runner(tmp_path, [EpochSeedHook()], epochs=1, iters=None if by_epoch else 2)
    runner.train()
    warned = 'EpochSeedHook: the training counts iterations'
    assert (warned in toy.log_of(tmp_path)) != by_epoch


def mark(worker, mark):
    """Mark the numbers of a worker, as a user's own function could."""
    random.seed(mark)


def test_a_worker_init_fn_of_the_user_runs_after_the_seeds(tmp_path):
    own = dict(worker_init_fn=dict(type=mark, mark=7))
    plain, marked = train(tmp_path / 'plain'), train(tmp_path / 'marked', loader=own)
    first = random.Random(7).random()
    for epoch, rows in marked.worker.items():
        assert rows[0][2] == first != plain.worker[epoch][0][2]
        assert [row[:2] for row in rows] == [row[:2] for row in plain.worker[epoch]]
