"""Layers that a network also holds in ordinary attributes stay as they are."""

import copy

import pytest
import torch
from torch import nn

from mmesbnn import binarize


class Held(nn.Module):
    """A network that runs its second layer through an ordinary attribute."""

    def __init__(self, hold):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.held = hold(self.layers[1])

    def run_held(self, x):
        held = self.held['a'] if isinstance(self.held, dict) else self.held
        held = held[0] if isinstance(held, (list, tuple)) else held
        return held(x)

    def forward(self, x):
        x = self.run_held(self.layers[0](x))
        return self.layers[3](self.layers[2](x))


HOLD = {
    'list': lambda layer: [layer],
    'tuple in a dict': lambda layer: {'a': (layer,)},
    'method': lambda layer: layer.forward,
}


@pytest.mark.parametrize('hold', HOLD.values(), ids=HOLD)
def test_a_layer_in_an_ordinary_attribute_is_kept(hold):
    net = Held(hold)
    report = {layer.name: layer.why for layer in binarize(net)}
    assert report['layers.1'] == 'Held.held, an ordinary attribute, also holds it'
    assert report['layers.2'] == 'now ESLinear'


def test_what_the_report_calls_binary_runs():
    net, x = Held(lambda layer: [layer]), torch.randn(2, 4)
    report = binarize(net)
    before = net(x)
    for layer in report.replaced:
        other = copy.deepcopy(net)
        nn.init.constant_(other.get_submodule(layer.name).linear.weight, 3)
        assert not torch.equal(other(x), before)


def test_names_of_registered_modules_do_not_count():
    net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])
    net.also, net.names = net[1], ['1', '2']
    assert [layer.name for layer in binarize(net, keep_last=False).replaced] == ['1', '2', '3']


def test_a_weight_that_an_ordinary_attribute_holds():
    # as DistributedDataParallel and mmengine's averaged models do: they would hold the old one
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    model.averaged = {'1.weight': model[1].weight}
    report = binarize(model)
    assert {layer.name for layer in report.kept} == {'0', '1', '3'}
    assert 'Sequential.averaged, an ordinary attribute, also holds its weight' in str(report)
