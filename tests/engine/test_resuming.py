"""The reason why a checkpoint cannot be resumed is one clear sentence."""

import pytest
import torch

from mmesbnn.engine.resuming import why_not_whole


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
