"""A training that needs other weights does not start without them."""

import pytest
import torch
from mmengine.evaluator import Evaluator

from mmesbnn.engine.hooks import FittingCheckpointHook, RequireCheckpointHook
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
    runner = toy.runner(tmp_path / 'work', [RequireCheckpointHook(), record], epochs=1, **options)
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
        ({'fc.bias': torch.zeros(5)}, r'1 have another shape \(fc.bias: '),
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


# another head ---------------------------------------------------------------------


def start_from(tmp_path, hook, state, test=False, **options):
    path = tmp_path / 'start.pth'
    torch.save(dict(state_dict=state), path)
    tests = dict(
        test_dataloader=toy.loader(toy.images(), shuffle=False),
        test_cfg=dict(),
        test_evaluator=Evaluator([]),
    )
    runner = toy.runner(
        tmp_path / 'work', [hook], epochs=1, load_from=str(path), **tests, **options
    )
    if test:
        runner.test()
    else:
        runner.train()


def test_a_new_head_may_differ_and_nothing_else(tmp_path, state):
    hook = RequireCheckpointHook(new=['fc.'])
    other = {**state, 'fc.weight': torch.zeros(9, 32)}
    start_from(tmp_path, hook, other)
    del other['backbone.act.weight']
    with pytest.raises(ValueError, match=r'1 are missing \(backbone.act.weight\)'):
        start_from(tmp_path, RequireCheckpointHook(new=['fc.']), other)


def test_what_is_tested_has_no_new_head(tmp_path, state):
    other = {**state, 'fc.weight': torch.zeros(9, 32)}
    with pytest.raises(ValueError, match=r'another shape \(fc.weight: '):
        start_from(tmp_path, RequireCheckpointHook(new=['fc.']), other, test=True)


def test_new_names_are_a_list():
    with pytest.raises(ValueError, match=r"new='fc.' must be a list"):
        RequireCheckpointHook(new='fc.')


def test_a_test_of_half_a_checkpoint_stops(tmp_path, state):
    half = {k: v for k, v in state.items() if k.startswith('backbone')}
    start_from(tmp_path, FittingCheckpointHook(), state, test=True)
    start_from(tmp_path, FittingCheckpointHook(), half)  # training from it is allowed
    with pytest.raises(ValueError, match='2 are missing'):
        start_from(tmp_path, FittingCheckpointHook(), half, test=True)


@pytest.mark.parametrize('hook', [FittingCheckpointHook, RequireCheckpointHook])
def test_checkpoints_fit_with_test_time_augmentation(tmp_path, state, hook):
    model = toy.FirstView(toy.ToyClassifier())
    start_from(tmp_path, hook(), state, test=True, model=model)
    assert torch.equal(model.module.fc.weight, state['fc.weight'])
    half = {k: v for k, v in state.items() if k.startswith('backbone')}
    with pytest.raises(ValueError, match=r'2 are missing \(fc.weight, fc.bias\)$'):
        start_from(tmp_path, hook(), half, test=True, model=model)


def test_a_checkpoint_of_another_tau_stops_without_a_hook(tmp_path):
    state = toy.ToyClassifier(tau=1).state_dict()
    for test in (False, True):
        with pytest.raises(RuntimeError, match='has another tau or groups'):
            start_from(tmp_path, toy.Record(lambda runner: None), state, test=test)
