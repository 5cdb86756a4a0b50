"""Messages about entries that do not fit, and about forbidden weight values."""

import pytest
import torch

from mmesbnn.checkpoints import (
    CheckpointError,
    check_finite,
    check_numbers,
    misfits,
    state_dict_of,
    strip_wrapper,
)

OWN = {'a.weight': torch.ones(3), 'b': torch.ones(2, dtype=torch.int64)}


def test_what_fits():
    assert misfits(OWN, OWN) == []
    half = {'a.weight': torch.ones(3).half(), 'b': torch.ones(2, dtype=torch.int32)}
    assert misfits(half, OWN) == []


@pytest.mark.parametrize(
    'change, phrase',
    [
        ({'c': torch.ones(1)}, '1 are unknown (c)'),
        ({'a.weight': torch.ones(4)}, '1 have another shape (a.weight: (4,) for (3,))'),
        ({'a.weight': [1.0]}, '1 are not tensors (a.weight)'),
        (
            {'a.weight': torch.ones(3, dtype=torch.complex64)},
            '1 have another type (a.weight: torch.complex64 for torch.float32)',
        ),
        (
            {'a.weight': torch.ones(3, dtype=torch.int64)},
            '1 have another type (a.weight: torch.int64 for torch.float32)',
        ),
        ({'b': torch.ones(2)}, '1 have another type (b: torch.float32 for torch.int64)'),
    ],
)
def test_what_does_not_fit(change, phrase):
    assert misfits({**OWN, **change}, OWN) == [phrase]


def test_a_shape_stands_for_an_entry_of_any_type():
    shapes = {'a.weight': (3,), 'b': (2, 1)}
    assert misfits(OWN, shapes) == ['1 have another shape (b: (2,) for (2, 1))']


def test_what_is_missing():
    assert misfits({}, OWN) == ['2 are missing (a.weight, b)']


def test_many_names_are_shortened():
    state = {f'{i}' * 500: torch.ones(1) for i in range(9)}
    assert misfits(state, {})[0].endswith(' and 6 more)')
    assert len(misfits(state, {})[0]) < 400


@pytest.mark.parametrize('dtype', [torch.complex64, torch.bool, torch.int64, torch.float8_e4m3fn])
def test_weights_must_be_plain_numbers(dtype):
    with pytest.raises(CheckpointError, match=r'a.weight holds numbers of torch'):
        check_numbers({**OWN, 'a.weight': torch.ones(3).to(dtype)})
    check_numbers(OWN)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_the_first_weight_that_is_not_finite_is_named(value):
    state = {'a': torch.ones(2), 'b': torch.tensor([1, value]), 'c': torch.tensor(value)}
    with pytest.raises(CheckpointError, match='b holds NaN or infinity'):
        check_finite(state)


@pytest.mark.parametrize(
    'content, words',
    [
        ([1], 'but a list'),
        (None, 'but a NoneType'),
        ({}, 'but an empty dict'),
        ({'state_dict': None}, 'but a NoneType'),
        ({'state_dict': {1: torch.ones(1)}}, '1 is a Tensor'),
        ({'state_dict': {'a': 1}}, "'a' is a int, not a tensor"),
        ({'a': torch.ones(2).to_sparse()}, 'a is not a dense tensor'),
        ({'a': torch.ones(2, device='meta')}, 'a is not a dense tensor'),
    ],
)
def test_what_is_no_state_dict(content, words):
    with pytest.raises(CheckpointError, match=words):
        state_dict_of(content)


def test_the_wrapper_is_stripped_from_all_or_none():
    assert strip_wrapper({'module.a': 1, 'module.module.b': 2}) == {'a': 1, 'module.b': 2}
    assert strip_wrapper({'module.a': 1, 'b': 2}) == {'module.a': 1, 'b': 2}
