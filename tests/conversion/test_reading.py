"""The converter reads checkpoints, and its messages describe all other files."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmesbnn.conversion.reading import read_published

STATE = {'a.weight': torch.arange(3.0), 'b': torch.ones(())}


def assert_is_state(state):
    assert list(state) == list(STATE)
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)


def prefixed():
    return {f'module.{key}': value for key, value in STATE.items()}


@pytest.mark.parametrize('key', ['state_dict', 'model', 'weight', 'params'])
def test_state_dict_is_found_under_the_published_keys(key):
    assert_is_state(read_published({key: STATE, 'epoch': 3})[1])


def test_bare_and_prefixed_dicts_are_read():
    assert_is_state(read_published(STATE)[1])
    assert_is_state(read_published(prefixed())[1])


def test_module_is_stripped_only_if_all_keys_have_it():
    state = {'module.a': torch.ones(1), 'b': torch.ones(1)}
    assert list(read_published(state)[1]) == ['module.a', 'b']


def test_parameters_are_detached():
    parameter = torch.nn.Parameter(torch.ones(1))
    assert not read_published({'a': parameter})[1]['a'].requires_grad


@pytest.mark.parametrize('legacy', [False, True])
def test_training_checkpoints_with_numpy_scalars_are_read(tmp_path, legacy):
    path = tmp_path / 'file.pth.tar'
    extras = dict(
        epoch=np.int64(7),
        best=np.float64(72.5),
        train_loss=[1.5, np.float32(2.5)],
        optimizer=dict(state={0: dict(step=torch.ones(()))}, param_groups=[]),
    )
    torch.save(
        dict(state_dict=prefixed(), **extras), path, _use_new_zipfile_serialization=not legacy
    )
    name, state = read_published(path)
    assert name == str(path)
    assert_is_state(state)


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / 'file.safetensors')
    assert_is_state(read_published(tmp_path / 'file.safetensors')[1])


class Payload:
    """Would run code if it were unpickled without the check."""

    def __reduce__(self):
        return exec, ('raise SystemExit("code from a checkpoint ran")',)


def test_objects_that_could_run_code_are_refused_by_name(tmp_path):
    torch.save(dict(state_dict=STATE, args=Payload()), tmp_path / 'file.pth')
    with pytest.raises(ValueError, match=r'file.pth: holds the object .*exec, and only'):
        read_published(tmp_path / 'file.pth')


def test_truncated_files_are_refused(tmp_path):
    whole, part = tmp_path / 'whole.pth', tmp_path / 'part.pth'
    torch.save(STATE, whole)
    for size in (0, 10, 500):
        part.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(ValueError, match=r'part.pth: (is empty|.*truncated)'):
            read_published(part)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_other_files_are_refused(tmp_path, suffix):
    path = tmp_path / f'notes.{suffix}'
    path.write_text('weights to follow')
    with pytest.raises(ValueError, match=r'notes.*: (is )?truncated, .*no'):
        read_published(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none.pth: no such file'):
        read_published(tmp_path / 'none.pth')
    with pytest.raises(IsADirectoryError, match='a folder, not a checkpoint file'):
        read_published(tmp_path)


@pytest.mark.parametrize(
    'source, message',
    [
        (3, 'source=3 must be a path or a dict'),
        ({}, 'the given dict: holds no state dict but an empty dict'),
        ({'epoch': 3}, "'epoch' is a int, not a tensor"),
        ({'state_dict': {'a': [1.0]}}, "'a' is a list, not a tensor"),
        ({0: torch.ones(1)}, '0 is a Tensor'),
    ],
)
def test_what_is_no_state_dict_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        read_published(source)


def test_a_file_with_one_tensor_is_refused(tmp_path):
    torch.save(torch.ones(3), tmp_path / 'file.pth')
    with pytest.raises(ValueError, match=r'file.pth: holds no state dict'):
        read_published(tmp_path / 'file.pth')
