"""torch.fx keeps binary layers whole and computes what they compute."""

import pytest
import torch
from torch import fx, nn

from mmesbnn.binary import (
    BinaryConv2d,
    BinaryFeedForward,
    BinaryLinear,
    BinaryMultiheadAttention,
    ESConv2d,
    ESLinear,
    RPReLU,
    RSign,
    TiledBatchNorm2d,
    tile,
)

LAYERS = {
    'convolutions': (
        [BinaryConv2d(8, 4, 3), TiledBatchNorm2d(8, 2), ESConv2d(8, 8, 1, tau=2), RPReLU(8)],
        (2, 8, 6, 6),
    ),
    'signs': ([RSign(8), BinaryConv2d(8, 8, 3, sign=None)], (2, 8, 6, 6)),
    'linear': ([ESLinear(8, 8, tau=2), BinaryLinear(8, 4)], (2, 8)),
    'tokens': ([BinaryMultiheadAttention(8, 2), BinaryFeedForward(8, 16)], (2, 9, 8)),
}


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', LAYERS)
def test_layers_are_nodes(name, training):
    layers, shape = LAYERS[name]
    net = nn.Sequential(*layers).train(training)
    traced = fx.symbolic_trace(net)
    nodes = [node.target for node in traced.graph.nodes if node.op == 'call_module']
    assert nodes == [str(i) for i in range(len(layers))]
    x = torch.randn(shape)
    assert torch.equal(traced(x), net(x))


class Tiled(nn.Module):
    def forward(self, x):
        return tile(x, 2) + 1


def test_functions_that_look_at_shapes_are_nodes():
    traced = fx.symbolic_trace(Tiled())
    functions = [n.target for n in traced.graph.nodes if n.op == 'call_function']
    assert functions[0] is tile
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(traced(x), torch.cat([x, x], 1) + 1)


def test_a_layer_alone_is_refused_in_a_sentence():
    with pytest.raises(TypeError, match=r'BinaryConv2d asks for the shape .* modules that hold it'):
        fx.symbolic_trace(BinaryConv2d(8, 4, 3))
