"""All layers get the temperature in training and validation, and end binary."""

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook

from mmesbnn.binary import BinaryConv2d, TemperatureWeight
from mmesbnn.engine.hooks import TemperatureHook
from mmesbnn.engine.hooks.temperature import binary_share
from mmesbnn.engine.reach import temperature_weights
from mmesbnn.engine.temperature_schedule import temperature_schedule
from tests.engine import toy


def temperatures(model):
    """Return the set of temperatures of all layers, as numbers."""
    return {weight.temperature.item() for weight in temperature_weights(model)}


def watch():
    return toy.Record(lambda runner: temperatures(runner.model))


def close(sets, values):
    """Check that every set has exactly one temperature, the expected one."""
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
    assert temperature_schedule(below, decay=0.9).binary_from == epoch


@pytest.mark.parametrize('below', [1e-7, 1e-5])
@pytest.mark.parametrize('epoch', [1, 2, 3, 10, 153, 512, 100_000])
def test_binary_from_is_the_first_binary_epoch_in_float32(below, epoch):
    schedule = temperature_schedule(below, binary_from=epoch)
    binarizer = TemperatureWeight(below)
    weight = torch.tensor([1e-9, -1e-9])
    for step, binary in ((epoch - 1, False), (epoch, True), (epoch + 1, True)):
        binarizer.temperature.fill_(schedule.temperature(step))
        assert (binarizer(weight).abs() == 1).all() == binary, step


def test_training_ends_binary_from_the_given_epoch_on_and_says_nothing(tmp_path):
    record = toy.Record(lambda runner: binary_share(runner.model))
    runner = toy.runner(tmp_path, [TemperatureHook(binary_from=2), record], epochs=3)
    runner.train()
    assert record.seen['train'][0] == 0
    assert record.seen['train'][4:] == [1, 1]
    for weight in (
        m.effective_weight() for m in runner.model.modules() if isinstance(m, BinaryConv2d)
    ):
        assert set(weight.unique().tolist()) == {-1, 1}
    assert 'TemperatureHook' not in toy.log_of(tmp_path)
    logged = runner.message_hub.get_scalar('train/binary_weights').data[0]
    assert logged[0] == 0 < logged[1] <= logged[2] == 1


def test_training_that_ends_too_early_is_told_so_twice(tmp_path):
    toy.runner(tmp_path, [TemperatureHook(0.9)], epochs=2).train()
    early, late = [line for line in toy.log_of(tmp_path).splitlines() if 'TemperatureHook' in line]
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
def test_moving_averages_validate_and_save_at_the_same_temperature(tmp_path, update_buffers):
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
        (dict(decay=1), r'decay=1 must be a number between 0 and 1'),
        (dict(decay=0), r'decay=0 must be a number between 0 and 1'),
        (dict(decay=float('nan')), r'decay=nan'),
        (dict(binary_from=0), r'binary_from=0 must be an integer >= 1'),
        (dict(initial=0), r'initial=0 must be a finite number > 0'),
        (dict(initial=float('inf')), r'initial=inf must be a finite number > 0'),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TemperatureHook(**arguments)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(initial=1e-7), r'initial=1e-07 must not be exactly'),
        (dict(initial=1e-8, binary_from=3), r'binary_from=3: weights are binary below'),
    ],
)
def test_initial_temperatures_that_fit_no_schedule(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        toy.runner(tmp_path, [TemperatureHook(**options)]).train()


# hard weights ---------------------------------------------------------------------


def hardened(temperature=6.7e-10):
    """Return a network whose weights have this temperature."""
    model = toy.ToyClassifier()
    for weight in temperature_weights(model):
        weight.temperature.fill_(temperature)
    return model


def fine_tune(tmp_path, hook, start, **options):
    """Train from the weights of ``start``, and record temperatures and shares."""
    path = tmp_path / 'start.pth'
    torch.save({'state_dict': start.state_dict()}, path)
    record = toy.Record(lambda runner: (temperatures(runner.model), binary_share(runner.model)))
    runner = toy.runner(
        tmp_path / 'work',
        [hook, record],
        load_from=str(path),
        log_level='INFO',
        **{'epochs': 3, 'val': True, **options},
    )
    runner.train()
    return record.seen, toy.log_of(tmp_path / 'work')


def test_a_hardened_network_stays_binary(tmp_path):
    seen, log = fine_tune(tmp_path, TemperatureHook(), hardened())
    for found, share in seen['train'] + seen['val']:
        assert share == 1
        assert sorted(found) == pytest.approx([6.7e-10])
    assert 'have loaded weights that are harder (temperature 6.7e-10)' in log
    assert 'not binary yet' not in log
    assert 'after the last one' not in log


def test_its_outputs_are_those_of_the_file_before_the_first_step(tmp_path):
    start = hardened()
    inputs = torch.stack([item['inputs'] for item in toy.images()])
    expected = start.eval()(inputs)
    outputs = []

    def look(runner):
        runner.model.eval()
        outputs.append(runner.model(inputs))
        runner.model.train()

    path = tmp_path / 'start.pth'
    torch.save({'state_dict': start.state_dict()}, path)
    hooks = [TemperatureHook(binary_from=5), toy.Record(look)]
    toy.runner(tmp_path / 'work', hooks, epochs=1, load_from=str(path)).train()
    assert torch.equal(outputs[0], expected)


def test_softening_needs_a_word_and_gets_a_warning(tmp_path):
    seen, log = fine_tune(tmp_path, TemperatureHook(0.5, soften=True), hardened())
    close([found for found, _ in seen['train'][::2]], [1, 0.5, 0.25])
    assert 'soften=True, so they are softened' in log


def test_half_hard_weights_wait_for_the_schedule(tmp_path):
    seen, _ = fine_tune(tmp_path, TemperatureHook(0.5), hardened(0.4))
    close([found for found, _ in seen['train'][::2]], [0.4, 0.4, 0.25])


def test_new_layers_beside_hard_ones_follow_the_schedule(tmp_path):
    start = hardened()
    first, *others = temperature_weights(start)
    first.temperature.fill_(1)
    seen, log = fine_tune(tmp_path, TemperatureHook(0.5), start, epochs=2)
    for (found, _), planned in zip(seen['train'][::2], (1, 0.5)):
        assert sorted(found) == pytest.approx([6.7e-10, planned])
    assert f'{len(others)} of {len(others) + 1} layers' in log


def test_iterations_and_averages_of_a_hard_network(tmp_path):
    ema = EMAHook(momentum=0.5)
    hook = TemperatureHook(decay=0.5, by_epoch=False)
    path = tmp_path / 'start.pth'
    torch.save({'state_dict': hardened().state_dict()}, path)
    record = watch()
    toy.runner(tmp_path / 'work', [hook, ema, record], iters=3, load_from=str(path)).train()
    close(record.seen['train'], [6.7e-10] * 3)
    close([temperatures(ema.ema_model)], [6.7e-10])


def test_weights_can_be_held_binary(tmp_path):
    record = toy.Record(lambda runner: (temperatures(runner.model), binary_share(runner.model)))
    hook = TemperatureHook(initial=1e-8)
    toy.runner(tmp_path, [hook, record], epochs=3, val=True).train()
    for found, share in record.seen['train'] + record.seen['val']:
        assert share == 1
        assert sorted(found) == pytest.approx([1e-8])
    assert 'TemperatureHook' not in toy.log_of(tmp_path)


@pytest.mark.parametrize(('temperature', 'warned'), [(1e-9, False), (0.3, True)])
def test_testing_weights_that_are_not_binary_is_said(tmp_path, temperature, warned):
    path = tmp_path / 'start.pth'
    torch.save({'state_dict': hardened(temperature).state_dict()}, path)
    runner = toy.runner(
        tmp_path / 'work',
        [TemperatureHook()],
        load_from=str(path),
        test_dataloader=toy.loader(toy.images(), shuffle=False),
        test_cfg=dict(),
        test_evaluator=Evaluator([]),
    )
    runner.test()
    log = toy.log_of(tmp_path / 'work')
    assert ('a network that is not binary yet' in log) == warned
