"""Copies of checkpoints with some keys, written at the end of a training."""

import math

from mmesbnn.checkpoints import read_checkpoint
from tests.engine import toy
from tests.engine.test_whole_checkpoint import checkpoints, train


def test_unknown_keys_are_named_and_alone_publish_nothing(tmp_path):
    train(tmp_path, (1,), published_keys=['nope'])
    assert checkpoints(tmp_path) == ['epoch_1.pth']
    message = r"published_keys=['nope']: {} has no nope, but meta, state_dict"
    assert message.format(tmp_path / 'epoch_1.pth') in toy.log_of(tmp_path)


def test_known_keys_are_published_beside_unknown_ones(tmp_path):
    train(tmp_path, (1,), published_keys=['state_dict', 'nope'])
    (copy,) = tmp_path.glob('epoch_1-*.pth')
    assert list(read_checkpoint(copy)) == ['state_dict']
    assert 'has no nope' in toy.log_of(tmp_path)


def test_a_metric_without_a_best_one_is_left_out(tmp_path):
    metrics = dict(save_best=['toy/score', 'toy/error'], rule=['greater', 'less'])
    train(tmp_path, (math.nan,), published_keys='state_dict', **metrics)
    (copy,) = tmp_path.glob('*-*.pth')
    assert copy.name.startswith('epoch_1-')
