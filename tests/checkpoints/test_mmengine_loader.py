"""mmengine reads its checkpoints with equal values; torch.load stays strict."""

import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader, load_checkpoint, save_checkpoint

import mmesbnn  # noqa: F401  (registers the loader)
from mmesbnn.checkpoints import CheckpointError, read_checkpoint
from mmesbnn.deploy import pack
from tests.analysis.digits import set_temperature
from tests.engine import toy


def load(path, map_location=None):
    return CheckpointLoader.load_checkpoint(str(path), map_location, None)


def message_hub():
    hub = MessageHub.get_instance('test_mmengine_loader')
    for value in (0.5, 1, 0.25):
        hub.update_scalar('train/loss', value)
    hub.update_info('epoch', 3)
    hub.update_info('best_score', np.float64(0.75))
    return hub


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    hub = message_hub()
    content = dict(state_dict=dict(w=torch.ones(2)), message_hub=hub.state_dict())
    save_checkpoint(content, str(path))
    return path


def assert_is_hub(state):
    hub = message_hub()
    hub.load_state_dict(state)
    history = hub.get_scalar('train/loss')
    assert history.data[0].tolist() == [0.5, 1, 0.25]
    assert history.statistics('mean', 2) == 0.625
    history.update(4.0)
    assert history.statistics('current') == 4
    assert hub.get_info('best_score') == 0.75
    assert type(hub.get_info('best_score')) is np.float64


def test_checkpoint_with_a_message_hub(saved):
    assert_is_hub(load(saved)['message_hub'])


def test_saved_again_and_read_again(saved, tmp_path):
    again = tmp_path / 'again.pth'
    save_checkpoint(load(saved), str(again))
    assert_is_hub(load(again)['message_hub'])
    # and by pickle itself, so that none of our code is in it
    assert_is_hub(torch.load(again, weights_only=False)['message_hub'])


def test_load_checkpoint_loads_the_weights(tmp_path):
    network, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    path = tmp_path / 'a.pth'
    save_checkpoint(
        dict(state_dict=network.state_dict(), message_hub=message_hub().state_dict()), str(path)
    )
    load_checkpoint(other, str(path), strict=True)
    assert torch.equal(other.weight, network.weight)


def test_the_process_is_as_strict_as_without_mmesbnn(saved):
    pytest.importorskip('mmpretrain')
    ask = 'import torch; {}; print(sorted(map(str, torch.serialization.get_safe_globals())))'
    answers = [
        subprocess.run(
            [sys.executable, '-c', ask.format(f'import {module}')],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for module in ('mmengine.runner, mmpretrain', 'mmesbnn, mmpretrain')
    ]
    names = [{line.split(' at 0x')[0] for line in a.split(', ')} for a in answers]
    assert names[0] == names[1]
    with pytest.raises(pickle.UnpicklingError):
        torch.load(saved, weights_only=True)


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
        (getattr, OneCycleParamScheduler, 'build_iter_from_epoch'),
        (getattr, dict, 'fromkeys'),
    ],
)
def test_other_calls_are_refused(tmp_path, call):
    path = tmp_path / 'malicious.pth'
    torch.save(Reduced(*call), path)
    torch.load(path, weights_only=False)  # without the check it would run
    with pytest.raises(CheckpointError):
        load(path)


def test_the_switch_of_torch_trusts_a_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    torch.save(Reduced(bytearray, 1), path)
    with pytest.raises(CheckpointError, match='bytes of an unknown form'):
        load(path)
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    assert load(path) == bytearray(1)


def test_a_config_in_a_checkpoint_is_not_run_by_resuming(tmp_path):
    path, trace = tmp_path / 'epoch_1.pth', tmp_path / 'trace'
    toy.runner(tmp_path, [], toy.PlainModel(), epochs=1, default_hooks={}).train()
    content = read_checkpoint(path)
    content['meta']['config'] = f'import os; os.mkdir({str(trace)!r})'
    torch.save(content, path)
    runner = toy.runner(tmp_path, [], toy.PlainModel(), resume=True, load_from=str(path))
    runner.train()
    assert runner.epoch == 2
    assert not trace.exists()


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
                data = data.replace(f'c{here}\n'.encode(), f'c{core}.multiarray\n'.encode())
                assert f'c{core}.multiarray\nscalar\n'.encode() in data
            new.writestr(entry, data)
    loaded = load(renamed)
    assert (loaded['a'] == content['a']).all()
    assert (loaded['b'] == content['b']).all()
    assert loaded['c'] == 0.5


@pytest.mark.parametrize('where', ['cpu', torch.device('cpu'), None, {'cpu': 'cpu'}])
def test_map_location(saved, where):
    assert load(saved, where)['state_dict']['w'].device.type == 'cpu'


def test_map_location_by_a_function(saved):
    seen = []

    def place(storage, location):
        seen.append((type(storage), location))
        return storage

    assert load(saved, place)['state_dict']['w'].tolist() == [1, 1]
    assert seen == [(torch.UntypedStorage, 'cpu')]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none.pth can not be found'):
        load(tmp_path / 'none.pth')


class Allowed:
    def __init__(self, value):
        self.value = value


def test_what_the_user_tells_torch_to_trust_is_read(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save({'x': Allowed(3), 'array': np.arange(2)}, path)
    with pytest.raises(CheckpointError, match=r'holds the object .*Allowed, and only'):
        read_checkpoint(path)
    with torch.serialization.safe_globals([Allowed]):
        assert read_checkpoint(path)['x'].value == 3


def test_a_packed_network_starts_no_training(tmp_path):
    packed = tmp_path / 'packed.safetensors'
    model = toy.ToyClassifier()
    set_temperature(model, 1e-15)
    pack(model.eval(), packed)
    with pytest.raises(CheckpointError, match=r'packed\.safetensors: is a packed network, not a '):
        toy.runner(tmp_path, [], model, load_from=str(packed)).train()


@pytest.mark.parametrize('strategy', ['cos', 'linear'])
def test_a_training_with_one_cycle_is_resumed(tmp_path, strategy):
    def train(name, **resuming):
        schedule = dict(type='OneCycleLR', eta_max=0.1, total_steps=4, anneal_strategy=strategy)
        runner = toy.runner(
            tmp_path / name,
            [],
            toy.PlainModel(),
            param_scheduler=dict(schedule, by_epoch=False),
            default_hooks=dict(checkpoint=dict(type='WholeCheckpointHook', interval=1)),
            **resuming,
        )
        runner.train()
        return runner.optim_wrapper.get_lr()

    rates = train('first')
    saved = str(tmp_path / 'first' / 'epoch_1.pth')
    assert train('second', resume=True, load_from=saved) == rates
