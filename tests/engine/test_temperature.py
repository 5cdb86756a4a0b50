"""The temperature reaches every layer, in training and validation, and ends binary."""

import pytest
import torch
from mmengine.hooks import EMAHook

from mmesbnn.binary import BinaryConv2d, TemperatureWeight
from mmesbnn.engine.hooks import TemperatureHook
from mmesbnn.engine.hooks.temperature import binary_share
from mmesbnn.engine.reach import temperature_weights
from tests.engine import toy


def temperatures(model):
    """The set of temperatures of all layers, as numbers."""
    return {weight.temperature.item() for weight in temperature_weights(model)}


def watch():
    return toy.Record(lambda runner: temperatures(runner.model))


def close(sets, values):
    """Whether every set has one temperature, the one that is expected."""
    assert all(len(found) == 1 for found in sets), sets
    assert [found.pop() for found in sets] == pytest.approx(values, rel=1e-6)


def test_every_layer_trains_and_validates_at_the_published_temperature(tmp_path):
    record = watch()
    runner = toy.runner(tmp_path, [TemperatureHook(), record], epochs=3, val=True)
    runner.train()
    per_epoch = [1, 1, 0.9, 0.9, 0.81, 0.81]
    close(record.seen['train'], per_epoch)
    close(record.seen['val'], per_epoch)
    logged = runner.message_hub.get_scalar('train/temperature').data[0]
    assert logged == pytest.approx([1, 0.9, 0.81])


def test_iterations_can_be_counted_instead_of_epochs(tmp_path):
    record = watch()
    hook = TemperatureHook(decay=0.5, initial=2, by_epoch=False)
    toy.runner(tmp_path, [hook, record], iters=5).train()
    close(record.seen['train'], [2, 1, 0.5, 0.25, 0.125])


def test_by_epoch_does_not_fit_a_loop_that_counts_iterations(tmp_path):
    with pytest.raises(ValueError, match=r'by_epoch=True.*by_epoch=False'):
        toy.runner(tmp_path, [TemperatureHook()], iters=5).train()


@pytest.mark.parametrize(('below', 'epoch'), [(1e-7, 153), (1e-5, 110)])
def test_published_decay_is_binary_at_the_published_epoch(below, epoch):
    hook = TemperatureHook(decay=0.9)
    hook._schedule(below)
    assert hook.binary_from == epoch


@pytest.mark.parametrize('below', [1e-7, 1e-5])
@pytest.mark.parametrize('epoch', [1, 2, 3, 10, 153, 512, 100_000])
def test_binary_from_is_the_first_binary_epoch_in_float32(below, epoch):
    hook = TemperatureHook(binary_from=epoch)
    hook._schedule(below)
    binarizer = TemperatureWeight(below)
    weight = torch.tensor([1e-9, -1e-9])
    for step, binary in ((epoch - 1, False), (epoch, True), (epoch + 1, True)):
        binarizer.temperature.fill_(hook.temperature(step))
        assert (binarizer(weight).abs() == 1).all() == binary, step


def test_training_ends_binary_from_the_given_epoch_on_and_says_nothing(tmp_path):
    record = toy.Record(lambda runner: binary_share(runner.model))
    runner = toy.runner(tmp_path, [TemperatureHook(binary_from=2), record], epochs=3)
    runner.train()
    assert record.seen['train'][0] == 0
    assert record.seen['train'][4:] == [1, 1]
    for weight in (m.effective_weight() for m in runner.model.modules()
                   if isinstance(m, BinaryConv2d)):  # fmt: skip
        assert set(weight.unique().tolist()) == {-1, 1}
    assert 'TemperatureHook' not in toy.log_of(tmp_path)
    logged = runner.message_hub.get_scalar('train/binary_weights').data[0]
    assert logged[0] == 0 < logged[1] <= logged[2] == 1


def test_training_that_ends_too_early_is_told_so_twice(tmp_path):
    toy.runner(tmp_path, [TemperatureHook(0.9)], epochs=2).train()
    early, late = [
        line for line in toy.log_of(tmp_path).splitlines() if 'TemperatureHook' in line
    ]
    assert 'exactly binary at epoch 153, after the last one, 1' in early
    assert 'the model is not binary yet: train for more than 153 epochs' in late


def test_binary_share_counts_effective_weights():
    layer = BinaryConv2d(1, 4, 1, weight_binarizer='temperature')
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.4, -0.6, 0.5, 2.0]).view(4, 1, 1, 1))
    layer.weight_binarizer.temperature.fill_(0.5)
    assert binary_share(layer) == 0.75
    layer.weight_binarizer.temperature.fill_(1e-8)
    assert binary_share(layer) == 1


@pytest.mark.parametrize('update_buffers', [False, True])
def test_moving_averages_validate_and_save_at_the_same_temperature(
    tmp_path, update_buffers
):
    record = watch()
    ema = EMAHook(momentum=0.5, update_buffers=update_buffers)
    hooks = [TemperatureHook(0.5), ema, record]
    toy.runner(tmp_path, hooks, epochs=3, val=True).train()
    close(record.seen['val'], [1, 1, 0.5, 0.5, 0.25, 0.25])
    close([temperatures(ema.ema_model)], [0.25])


def test_model_without_such_weights_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r'no weights with a temperature.*remove'):
        toy.runner(tmp_path, [TemperatureHook()], model=toy.PlainModel()).train()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(decay=0.9, binary_from=5), r'decay=0.9, binary_from=5: give one'),
        (dict(decay=1), r'decay=1 must be between 0 and 1'),
        (dict(decay=0), r'decay=0 must be between 0 and 1'),
        (dict(decay=float('nan')), r'decay=nan'),
        (dict(binary_from=0), r'binary_from=0 must be at least 1'),
        (dict(initial=0), r'initial=0 must be positive'),
        (dict(initial=float('inf')), r'initial=inf must be positive'),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TemperatureHook(**arguments)


def test_initial_temperature_must_lie_above_the_binary_one(tmp_path):
    with pytest.raises(ValueError, match=r'initial=1e-09 must be above'):
        toy.runner(tmp_path, [TemperatureHook(initial=1e-9)]).train()
