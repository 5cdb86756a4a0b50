"""A training that is continued after its end keeps its best checkpoint."""

import pytest

from tests.engine import toy
from tests.engine.test_whole_checkpoint import build, checkpoints, resume, train


@pytest.mark.parametrize('save_best', ['toy/score', 'auto', ['toy/score', 'toy/error']])
def test_the_best_one_of_the_last_validation_is_found_again(tmp_path, save_best):
    options = dict(save_best=save_best, max_keep_ckpts=1)
    train(tmp_path, (1, 2), **options)
    resume(tmp_path, (1, 2, 1, 1), **options)
    assert 'is missing' not in toy.log_of(tmp_path)
    assert 'best_toy_score_epoch_2.pth' in checkpoints(tmp_path)
    assert 'best_toy_score_epoch_4.pth' not in checkpoints(tmp_path)


def test_it_is_found_between_the_intervals_of_the_extended_training(tmp_path):
    def train_more(scores):
        runner = build(tmp_path, scores, save_best='toy/score')
        runner._train_loop['val_interval'] = 2
        return runner.train() and runner

    train_more((1, 2, 9))
    (tmp_path / 'resume').touch()
    runner = train_more((1, 2, 9, 5))
    assert checkpoints(tmp_path)[0] == 'best_toy_score_epoch_3.pth'
    assert runner.message_hub.get_info('best_score') == 9
