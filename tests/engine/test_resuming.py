"""The reason why a checkpoint cannot be resumed is one clear sentence."""

import pytest
import torch

from mmesbnn.engine.resuming import why_not_whole
from tests.engine import toy
from tests.engine.test_whole_checkpoint import Die, Died, build, checkpoints, killed


def content(**changes):
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    return dict(meta=dict(epoch=1, iter=2), state_dict={}, message_hub=hub, **changes)


def reason(tmp_path, value):
    torch.save(value, tmp_path / 'epoch_1.pth')
    return why_not_whole(tmp_path / 'epoch_1.pth')


def test_a_whole_one(tmp_path):
    assert reason(tmp_path, content(optimizer={})) is None


@pytest.mark.parametrize('key', ['epoch', 'iter'])
@pytest.mark.parametrize('value', ['3', -1, 1.5, None, True, 2**31])
def test_steps_that_are_no_numbers(tmp_path, key, value):
    wrong = content()
    wrong['meta'][key] = value
    assert reason(tmp_path, wrong) == f'{key}={value!r} in its meta is not a number of steps'


@pytest.mark.parametrize('key', ['log_scalars', 'runtime_info', 'resumed_keys'])
@pytest.mark.parametrize('value', [None, [], {5: 5}])
def test_parts_of_the_message_hub(tmp_path, key, value):
    wrong = content()
    wrong['message_hub'][key] = value
    expected = f'{key} in its message_hub is not a dict with texts as keys'
    assert reason(tmp_path, wrong) == expected


@pytest.mark.parametrize('key', ['meta', 'message_hub', 'state_dict', 'optimizer'])
def test_entries_that_are_no_dicts(tmp_path, key):
    wrong = {**content(), key: ['epoch', 'iter']}
    assert reason(tmp_path, wrong) == f'its {key} is a list, not a dict'


def test_content_that_is_no_dict(tmp_path):
    wrong = ['meta', 'state_dict', 'message_hub']
    assert reason(tmp_path, wrong) == 'it holds a list, not a dict'


@pytest.mark.parametrize('batch_size', [2, 8])
def test_a_missed_validation_is_run_with_batches_of_another_size(tmp_path, batch_size):
    killed(tmp_path, 'before_val', 2, (1, 9, 3), save_best='toy/score')
    assert checkpoints(tmp_path)[0] == 'best_toy_score_epoch_1.pth'
    (tmp_path / 'resume').touch()
    runner = build(tmp_path, (1, 9, 3), save_best='toy/score')
    runner._train_dataloader['batch_size'] = batch_size
    runner.train()
    assert checkpoints(tmp_path)[0] == 'best_toy_score_epoch_2.pth'


def test_a_missed_validation_of_the_last_epoch_is_run(tmp_path):
    saving = dict(save_best='toy/score')
    interval = dict(by_epoch=True, max_epochs=2, val_interval=3)
    with pytest.raises(Died):
        runner = build(tmp_path, (1, 9), hooks=[Die('before_val', 2)], **saving)
        runner._train_loop = dict(interval)
        runner.train()
    (tmp_path / 'resume').touch()
    runner = build(tmp_path, (1, 9), **saving)
    runner._train_loop = dict(interval)
    runner._train_dataloader['batch_size'] = 2
    runner.train()
    assert 'best_toy_score_epoch_2.pth' in checkpoints(tmp_path)


def test_no_validation_is_run_within_an_epoch(tmp_path):
    options = dict(by_epoch=False)
    killed(tmp_path, 'before_train_epoch', 2, (1, 2, 3), **options)
    (tmp_path / 'iter_4.pth').unlink()
    (tmp_path / 'resume').touch()
    build(tmp_path, (1, 2, 3), **options).train()
    log = toy.log_of(tmp_path)
    assert 'iter_3.pth' in log and 'validating the resumed checkpoint' not in log
