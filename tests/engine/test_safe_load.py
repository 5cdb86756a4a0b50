"""mmengine's checkpoints load under torch's safety check, and nothing else does."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import save_checkpoint

import mmesbnn  # noqa: F401  (allows what is needed)


def message_hub():
    hub = MessageHub.get_instance('test_safe_load')
    for value in (0.5, 1, 0.25):
        hub.update_scalar('train/loss', value)
    hub.update_info('epoch', 3)
    hub.update_info('best_score', np.float64(0.75))
    return hub


def test_checkpoint_with_a_message_hub(tmp_path):
    hub = message_hub()
    path = tmp_path / 'checkpoint.pth'
    content = dict(state_dict=dict(w=torch.ones(2)), message_hub=hub.state_dict())
    save_checkpoint(content, str(path))
    loaded = torch.load(path, weights_only=True)
    hub.load_state_dict(loaded['message_hub'])
    history = hub.get_scalar('train/loss')
    assert history.data[0].tolist() == [0.5, 1, 0.25]
    assert history.statistics('mean', 2) == 0.625
    assert hub.get_info('best_score') == 0.75


class Reduced:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    'call',
    [
        (os.system, 'true'),
        (eval, '1'),
        (getattr, HistoryBuffer, '__init__'),
        (getattr, HistoryBuffer, '_statistics_methods'),
        (getattr, HistoryBuffer([1.0], [1]), 'min'),
        (getattr, np.ndarray, 'tofile'),
        (getattr, dict, 'fromkeys'),
    ],
)
def test_other_calls_are_refused(tmp_path, call):
    path = tmp_path / 'malicious.pth'
    torch.save(Reduced(*call), path)
    torch.load(path, weights_only=False)  # without the check it would be done
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize('core', ['numpy.core', 'numpy._core'])
def test_arrays_of_numpy_1_and_2(tmp_path, core):
    content = dict(a=np.arange(3.0), b=np.arange(3), c=np.float64(0.5))
    ours, renamed = tmp_path / 'ours.pth', tmp_path / 'renamed.pth'
    torch.save(content, ours)
    with zipfile.ZipFile(ours) as old, zipfile.ZipFile(renamed, 'w') as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith('data.pkl'):
                here = np.empty(0).__reduce__()[0].__module__
                assert f'c{here}\n_reconstruct\n'.encode() in data
                data = data.replace(
                    f'c{here}\n'.encode(), f'c{core}.multiarray\n'.encode()
                )
                assert f'c{core}.multiarray\nscalar\n'.encode() in data
            new.writestr(entry, data)
    loaded = torch.load(renamed, weights_only=True)
    assert (loaded['a'] == content['a']).all()
    assert (loaded['b'] == content['b']).all()
    assert loaded['c'] == 0.5
