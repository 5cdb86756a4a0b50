"""Layers take their input by torch's keyword, wherever networks call them so."""

import inspect

import pytest
import torch
from torch import fx, nn

from mmesbnn.analysis import measure_capacity
from mmesbnn.binary import (
    BinaryConv2d,
    BinaryLinear,
    ESConv2d,
    ESLinear,
    Expansion,
    ShrunkConv2d,
    ShrunkLinear,
    TiledBatchNorm2d,
    binarize,
)
from mmesbnn.binary.prelus import ChannelPReLU
from mmesbnn.models.layers.minmax import MinMaxConv2d, MinMaxLinear
from mmesbnn.models.layers.pooling import AveragePool, MaxPool

ES = Expansion(2, 1)
LAYERS = [
    (BinaryConv2d(4, 8, 3), nn.Conv2d, (2, 4, 5, 5)),
    (BinaryLinear(4, 8), nn.Linear, (2, 4)),
    (ESConv2d(4, 8, 3, tau=2), nn.Conv2d, (2, 4, 5, 5)),
    (ESLinear(4, 8, tau=2), nn.Linear, (2, 4)),
    (ShrunkConv2d(4, 8, 3, expansion=ES), nn.Conv2d, (2, 8, 5, 5)),
    (ShrunkLinear(4, 8, expansion=ES), nn.Linear, (2, 8)),
    (TiledBatchNorm2d(8, 2), nn.BatchNorm2d, (2, 4, 5, 5)),
    (ChannelPReLU(4), nn.PReLU, (2, 4, 5, 5)),
    (MaxPool(3, 2, 1), nn.MaxPool2d, (2, 4, 5, 5)),
    (AveragePool(), nn.AvgPool2d, (2, 4, 5, 5)),
    (MinMaxConv2d(4, 8, 3), nn.Conv2d, (2, 4, 5, 5)),
    (MinMaxLinear(4, 8), nn.Linear, (2, 4)),
]


class ByKeyword(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(input=x)
        return x


@pytest.mark.parametrize(
    ('layer', 'replaced', 'shape'), LAYERS, ids=[type(x).__name__ for x, *_ in LAYERS]
)
def test_the_keyword_is_that_of_the_replaced_layer(layer, replaced, shape):
    keyword = list(inspect.signature(replaced.forward).parameters)[1]
    x = torch.randn(shape)
    assert torch.equal(layer(**{keyword: x}), layer(x))
    traced = fx.symbolic_trace(ByKeyword(layer))
    assert torch.equal(traced(x), layer(x))


@pytest.mark.parametrize('copy_init', ['alike', 'balanced'])
def test_a_network_that_calls_its_layers_by_keyword_is_binarized(copy_init):
    torch.manual_seed(0)
    convs = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)]
    net = ByKeyword(convs[0], convs[1], nn.BatchNorm2d(8), nn.PReLU(8), convs[2])
    x = torch.randn(2, 8, 6, 6)
    report = binarize(net, example=x, tau=2, copy_init=copy_init)
    reasons = {layer.name: layer.why for layer in report.layers}
    assert reasons['layers.0'] == 'first layer, reads the input'
    assert torch.equal(net(x), nn.Sequential(*net.layers)(x))
    (found,) = measure_capacity(net, lambda: net(x))
    assert found.name.startswith('layers.1')
