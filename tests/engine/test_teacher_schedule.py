"""Assistants alternate as published."""

from types import SimpleNamespace

import pytest

from mmesbnn.engine.hooks import TeacherScheduleHook
from tests.engine import toy


class Distilled(toy.ToyClassifier):
    """A model that records the given assistants."""

    def __init__(self, assistants):
        super().__init__()
        self.num_assistants = assistants
        self.chosen = []
        self.loaded = 0

    def load_teachers(self):
        self.loaded += 1

    def set_teacher(self, assistant):
        self.chosen.append(assistant)


def changes(assistants, epochs):
    """Return the epochs at which the assistant changes."""
    hook = TeacherScheduleHook()
    model = Distilled(assistants)
    runner = SimpleNamespace(model=model, train_loop=None, logger=None, max_epochs=epochs, epoch=0)
    hook.before_train(runner)
    for runner.epoch in range(epochs):
        hook.before_train_epoch(runner)
    chosen = model.chosen
    return [e for e in range(1, len(chosen)) if chosen[e] != chosen[e - 1]], chosen


@pytest.mark.parametrize(('assistants', 'expected'), [(1, []), (2, [256]), (3, [171, 342])])
def test_published_epochs(assistants, expected):
    epochs, chosen = changes(assistants, 512)
    assert epochs == expected
    assert sorted(set(chosen)) == list(range(assistants))


def test_main_teacher_alone_is_left_alone():
    assert changes(0, 10) == ([], [])


def test_runner_drives_it_by_epochs(tmp_path):
    model = Distilled(2)
    toy.runner(tmp_path, [TeacherScheduleHook()], model=model, epochs=3).train()
    assert model.chosen == [0, 0, 1]


def test_runner_drives_it_by_iterations(tmp_path):
    model = Distilled(3)
    hook = TeacherScheduleHook(by_epoch=False)
    toy.runner(tmp_path, [hook], model=model, iters=6).train()
    assert model.chosen == [0, 0, 1, 1, 2, 2]


def test_by_epoch_does_not_fit_a_loop_that_counts_iterations(tmp_path):
    with pytest.raises(ValueError, match=r'TeacherScheduleHook: by_epoch=True'):
        toy.runner(tmp_path, [TeacherScheduleHook()], Distilled(2), iters=6).train()


def test_model_without_teachers_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='the model has no teachers'):
        toy.runner(tmp_path, [TeacherScheduleHook()]).train()
