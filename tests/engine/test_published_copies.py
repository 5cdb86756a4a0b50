"""Copies of checkpoints with some keys, written at the end of a training."""

import hashlib
import math

from mmesbnn.checkpoints import read_checkpoint
from tests.engine import toy
from tests.engine.test_whole_checkpoint import checkpoints, killed, resume, train


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


def test_the_name_is_the_digest_of_the_file_and_a_second_end_adds_none(tmp_path):
    options = dict(published_keys=['state_dict'], save_best='toy/score')
    train(tmp_path, (1,), **options)
    published = sorted(tmp_path.glob('*-*.pth'))
    assert len(published) == 2
    for path in published:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.stem.rpartition('-')[2] == digest[:8]
    resume(tmp_path, (1,), **options)
    assert sorted(tmp_path.glob('*-*.pth')) == published


def test_a_training_that_ended_before_it_published_does_so_when_it_is_resumed(tmp_path):
    killed(tmp_path, 'after_val', 1, (1,), published_keys=['state_dict'])
    assert checkpoints(tmp_path) == ['epoch_1.pth']
    resume(tmp_path, (1,), published_keys=['state_dict'])
    assert len(list(tmp_path.glob('epoch_1-*.pth'))) == 1
