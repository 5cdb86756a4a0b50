"""Bounded parameters stay in their bounds whenever other code can read them."""

import pytest
import torch
from mmengine.hooks import EMAHook

from mmesbnn.binary import BinaryLinear
from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.engine.hooks import ParameterBoundsHook
from mmesbnn.engine.hooks.parameter_bounds import bounded_parameters, clamp_parameters
from tests.engine import computed, toy


def excess(model):
    """Return the largest distance of a bounded parameter from its bounds."""
    return max(
        max((low - p).max().item(), (p - high).max().item())
        for p, low, high in bounded_parameters(model)
    )


def out_of_bounds_model():
    model = toy.ToyClassifier()
    with torch.no_grad():
        for parameter, _, high in bounded_parameters(model):
            parameter.view(-1)[0] = high + 1
    return model


LARGE_STEPS = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=10.0)))


def test_parameters_that_have_bounds():
    model = toy.ToyClassifier()
    found = {id(p): (low, high) for p, low, high in bounded_parameters(model)}
    names = {name: found.pop(id(p)) for name, p in model.named_parameters() if id(p) in found}
    assert not found
    assert set(names.values()) == {(-1.5, 1.5), (0, 1)}
    for name, bounds in names.items():
        expected = (0, 1) if name.endswith('mix') else (-1.5, 1.5)
        assert bounds == expected, name


@pytest.mark.parametrize('hooked', [False, True])
def test_clamped_before_training_and_after_every_step(tmp_path, hooked):
    record = toy.Record(lambda runner: excess(runner.model))
    hooks = [ParameterBoundsHook()] if hooked else []
    toy.runner(tmp_path, [*hooks, record], model=out_of_bounds_model(), **LARGE_STEPS).train()
    inside = [value <= 0 for value in record.seen['train'] + record.seen['after']]
    assert all(inside) if hooked else not any(inside)


def test_moving_average_and_checkpoint_get_clamped_values(tmp_path):
    # registered before, so the priority decides the order
    ema = EMAHook(momentum=0.5)
    toy.runner(
        tmp_path,
        [ema, ParameterBoundsHook()],
        model=out_of_bounds_model(),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        **LARGE_STEPS,
    ).train()
    assert excess(ema.ema_model) <= 0
    saved = read_checkpoint(tmp_path / 'epoch_2.pth')
    for state in (saved['state_dict'], saved['ema_state_dict']):
        model = toy.ToyClassifier()
        state = {key.removeprefix('module.'): value for key, value in state.items()}
        state.pop('steps', None)
        model.load_state_dict(state)
        assert excess(model) <= 0


def test_losses_are_those_of_clamping_in_the_forward_as_published(tmp_path):
    losses = []
    for hooked in (True, False):
        torch.manual_seed(3)
        model = out_of_bounds_model()
        if not hooked:
            model.backbone.register_forward_pre_hook(
                lambda module, args: clamp_parameters(bounded_parameters(module))
            )
        runner = toy.runner(
            tmp_path, [ParameterBoundsHook()] if hooked else [], model=model, **LARGE_STEPS
        )
        runner.train()
        losses.append(runner.message_hub.get_scalar('train/loss').data[0].tolist())
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 4


def test_model_without_bounds_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r'no module of the model has parameter_bounds'):
        toy.runner(tmp_path, [ParameterBoundsHook()], model=toy.PlainModel()).train()


@pytest.mark.parametrize('compute', computed.WAYS)
def test_a_computed_parameter_is_refused(compute):
    model = torch.nn.Sequential(BinaryLinear(8, 8, latent_clip=0.5))
    compute(model[0])
    with pytest.raises(ValueError, match=r"weight of '0' is computed .*remove_weight_norm"):
        bounded_parameters(model)
