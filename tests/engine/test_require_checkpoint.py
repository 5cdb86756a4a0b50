"""A training that needs the weights of another one does not begin without them."""

import pytest
import torch

from mmesbnn.engine.hooks import RequireCheckpointHook
from tests.engine import toy


@pytest.fixture
def state():
    return toy.ToyClassifier().state_dict()


def train(tmp_path, checkpoint=None, **options):
    if checkpoint is not None:
        path = tmp_path / 'start.pth'
        torch.save(checkpoint, path)
        options['load_from'] = str(path)
    record = toy.Record(lambda runner: runner.model.fc.weight.clone())
    runner = toy.runner(
        tmp_path / 'work', [RequireCheckpointHook(), record], epochs=1, **options
    )
    runner.train()
    return record.seen['train']


@pytest.mark.parametrize('wrapped', [False, True])
def test_training_begins_with_the_loaded_weights(tmp_path, state, wrapped):
    prefix = 'module.' if wrapped else ''
    checkpoint = {prefix + key: value for key, value in state.items()}
    first, *_ = train(tmp_path, dict(state_dict=checkpoint))
    assert torch.equal(first, state['fc.weight'])


def test_a_bare_state_dict_will_do(tmp_path, state):
    first, *_ = train(tmp_path, state)
    assert torch.equal(first, state['fc.weight'])


@pytest.mark.parametrize('resume', [False, True])
def test_training_from_nothing_is_refused(tmp_path, resume):
    with pytest.raises(ValueError, match='no checkpoint was loaded: set load_from'):
        train(tmp_path, resume=resume)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='stage1'):
        train(tmp_path, load_from=str(tmp_path / 'stage1.pth'))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'fc.weight': None}, r'1 are missing \(fc.weight\)'),
        ({'fc.weights': torch.zeros(4)}, r'1 are unknown \(fc.weights\)'),
        ({'fc.bias': torch.zeros(5)}, r'1 have another shape \(fc.bias\)'),
        # so do the stages of the published ReActNet-A, whose second starts at random
        (
            {'fc.weight': None, 'fc.weights': torch.zeros(128, 1)},
            r'1 are missing \(fc.weight\), 1 are unknown \(fc.weights\)',
        ),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(tmp_path, state, changes, message):
    for name, value in changes.items():
        state.pop(name) if value is None else state.update({name: value})
    with pytest.raises(ValueError, match=f'does not fit the model: .*{message}'):
        train(tmp_path, dict(state_dict=state))
