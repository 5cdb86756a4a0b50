"""All modules that users can name are called, so that hooks on them run."""

import copy

import pytest
import torch
from torch import nn

from mmesbnn.models.backbones import BNext
from tests import families
from tests.models.backbones import step

LISTS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def named_with_parameters(model):
    return {
        name: module
        for name, module in model.named_modules()
        if next(module.parameters(), None) is not None and not isinstance(module, LISTS)
    }


def watch(model):
    """Record the names of all modules that are called from now on."""
    called = set()
    for name, module in named_with_parameters(model).items():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    return called


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('name', families.NAMES)
def test_every_module_is_called(name, training):
    model, inputs = families.build(name)
    model.train(training)
    called = watch(model)
    model(*inputs)
    assert set(named_with_parameters(model)) == called


def test_every_module_of_a_unet_is_called_while_it_recomputes():
    pytest.importorskip('diffusers')
    model, inputs = families.build('es-bi-diffsr')
    twin = copy.deepcopy(model)
    model.enable_gradient_checkpointing()
    called = watch(model)
    outputs = [m(*inputs).sample for m in (model, twin)]
    assert torch.equal(*outputs)
    assert set(named_with_parameters(model)) == called
    for output in outputs:
        output.square().sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize('with_cp', [False, True])
def test_grad_cam_of_a_stage(with_cp):
    model = BNext(dict(channels=[16, 32, 32, 64]), tau=2, with_cp=with_cp, stem_stride=1)
    seen = {}
    stage = model.stages[0]
    stage.register_forward_hook(lambda m, i, y: seen.update(map=y))
    stage.register_full_backward_hook(lambda m, i, g: seen.update(gradient=g[0]))
    step(model, torch.randn(2, 3, 16, 16))
    assert seen['map'].shape == seen['gradient'].shape == (2, 64, 16, 16)
    weights = seen['gradient'].mean((2, 3), keepdim=True)
    cam = (weights * seen['map']).sum(1).relu()
    assert cam.shape == (2, 16, 16)
    assert cam.max() > 0


def test_recomputation_can_be_switched():
    model = BNext(dict(channels=[16, 32, 32]))
    assert not any(stage.with_cp for stage in model.stages)
    model.with_cp = True
    assert model.with_cp
    assert all(stage.with_cp for stage in model.stages)
