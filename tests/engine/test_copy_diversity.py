"""Similarity of copies, measured on one batch while a network trains."""

import pytest
import torch

from mmesbnn.analysis import measure_capacity
from mmesbnn.engine.hooks import CompileBlocksHook, CopyDiversityHook, CopyInitHook
from mmesbnn.plots.capacity import CORRELATION, RANK
from mmesbnn.plots.curves import read_scalars
from tests.engine import toy
from tests.engine.test_copy_init import DropIn

FROZEN = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)))


def train(folder, hook, *hooks, **options):
    runner = toy.runner(folder, [hook, *hooks], **options)
    runner.train()
    return runner, [x for x in read_scalars(folder) if any(key.startswith(RANK) for key in x)]


def model():
    torch.manual_seed(3)
    return toy.ToyClassifier()


def test_numbers_are_those_of_the_first_batch(tmp_path):
    batches = toy.Record(lambda runner: None)
    kept = []
    batches.before_train_iter = lambda runner, batch_idx, data_batch=None: kept.append(data_batch)
    runner, measured = train(
        tmp_path, CopyDiversityHook(positions=64), batches, epochs=1, model=model(), **FROZEN
    )
    assert [x['step'] for x in measured] == [0, 2], 'before and after'
    model_now = runner.model.train()
    found = measure_capacity(
        model_now, lambda: model_now(kept[0]['inputs']), positions=64, batch_statistics=True
    )
    last = measured[-1]
    for layer in found:
        assert last[RANK + layer.name] == pytest.approx(layer.rank / layer.channels)
        assert last[CORRELATION + layer.name] == pytest.approx(layer.copy_correlation)
    hub = runner.message_hub
    mean = sum(x.copy_correlation for x in found) / len(found)
    assert hub.get_scalar('train/copy_correlation').current() == pytest.approx(mean)
    mean = sum(x.rank / x.channels for x in found) / len(found)
    assert hub.get_scalar('train/rank_share').current() == pytest.approx(mean)


@pytest.mark.parametrize(
    ('options', 'steps'),
    [
        (dict(), [0, 2, 4, 6]),
        (dict(interval=2), [0, 4]),
        (dict(interval=3, by_epoch=False), [0, 3, 6]),
    ],
)
def test_intervals(tmp_path, options, steps):
    _, measured = train(tmp_path, CopyDiversityHook(**options), epochs=3)
    assert [x['step'] for x in measured] == steps


def test_training_goes_on_as_without_the_hook(tmp_path):
    states = []
    for i, hooks in enumerate(([], [CopyDiversityHook(interval=1, by_epoch=False)])):
        runner = toy.runner(tmp_path / str(i), hooks, model=model(), randomness=dict(seed=1))
        runner.train()
        states.append(runner.model.state_dict())
    assert all(map(torch.equal, states[0].values(), states[1].values()))


@pytest.mark.usefixtures('no_graphs')
@pytest.mark.skipif(not hasattr(torch.compiler, 'set_stance'), reason='new in torch 2.6')
def test_a_measurement_compiles_nothing(tmp_path):
    graphs = toy.Record(lambda runner: torch._dynamo.utils.counters['stats']['unique_graphs'])
    torch._dynamo.utils.counters.clear()
    hooks = [CompileBlocksHook(backend='eager'), graphs]
    _, measured = train(tmp_path / 'compiled', CopyDiversityHook(), *hooks, model=model(), val=True)
    assert (graphs.seen['after'][0], graphs.seen['val'][-1]) == (2, 4), 'as without the hook'
    _, expected = train(tmp_path / 'eager', CopyDiversityHook(), model=model())
    for found, wanted in zip(measured, expected, strict=True):
        ranks = {key: value for key, value in wanted.items() if key.startswith(RANK)}
        assert {key: found[key] for key in ranks} == pytest.approx(ranks, rel=1e-4)


def test_networks_without_copies_have_ranks_only(tmp_path):
    _, measured = train(tmp_path, CopyDiversityHook(), model=toy.ToyClassifier(tau=1), epochs=1)
    assert not any(key.startswith(CORRELATION) for key in measured[0])


def test_drop_in_copies_that_start_apart_are_less_alike(tmp_path):
    means = []
    for i, hooks in enumerate(([], [CopyInitHook()])):
        torch.manual_seed(4)
        # first CopyInitHook, then the measurement
        runner = toy.runner(
            tmp_path / str(i), [*hooks, CopyDiversityHook()], model=DropIn(), epochs=1, **FROZEN
        )
        runner.train()
        means.append(read_scalars(tmp_path / str(i))[0][f'{CORRELATION}body.3.conv'])
    assert means[1] < 0.9 * means[0]


def test_models_without_binary_layers_and_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match='CopyDiversityHook: the model has no binary layer'):
        train(tmp_path, CopyDiversityHook(), model=toy.PlainModel())
    for options in (dict(interval=0), dict(positions=-1), dict(by_epoch=1)):
        with pytest.raises(ValueError, match=f'{next(iter(options))}='):
            CopyDiversityHook(**options)
