import pytest

pytest.importorskip('openvino')

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from mmesbnn.deploy.openvino.layout import channels_last
from tests.deploy.graphs import kinds, run_graph

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def conv(x, outputs):
    weight = ops.constant(draw(outputs, x.get_output_shape(0)[1], 1, 1))
    return ops.convolution(x, weight, [1, 1], [0, 0], [0, 0], [1, 1])


def around(body, channels=8, size=(6, 4)):
    """Return a graph with ``body`` between two convolutions, before and after the pass."""
    x = ops.parameter([2, 3, *size], np.float32)
    graph = ov.Model([conv(body(conv(x, channels)), 4)], [x])
    value = draw(2, 3, *size)
    before = run_graph(graph, value)[0]
    channels_last(graph)
    return graph, before, run_graph(graph, value)[0]


def tiled(x):
    y = ops.unsqueeze(x, ops.constant(1))
    y = ops.add(ops.multiply(y, ops.constant(draw(1, 4, 8, 1, 1))), ops.constant(draw(4, 8, 1, 1)))
    y = ops.reshape(y, ops.constant([2, 32, 6, 4]), False)
    return ops.prelu(y, ops.constant(np.abs(draw(32))))


def gated(x):
    y = tiled(x)
    mean = ops.reduce_mean(y, ops.constant([2, 3]), True)
    return ops.multiply(y, ops.sigmoid(conv(mean, 32)))


def positions(x):
    return ops.add(ops.relu(x), ops.constant(draw(1, 8, 6, 4)))


def joined(x):
    parts = ops.split(ops.relu(x), ops.constant(1), 2)
    both = ops.concat([parts.output(1), ops.tanh(parts.output(0))], 1)
    return ops.slice(
        both, ops.constant([0]), ops.constant([6]), ops.constant([1]), ops.constant([1])
    )


def pooled(x):
    return ops.avg_pool(ops.relu(x), [2, 2], [0, 0], [0, 0], [2, 2], True)


def flipped(x):
    """Return an operator for which the pass has no rule."""
    return ops.transpose(ops.relu(x), ops.constant([0, 1, 3, 2]))


def pooled_over_channels(x):
    """Return a pooling of three dimensions, as ``F.local_response_norm`` has."""
    deep = ops.unsqueeze(ops.relu(x), ops.constant(1))
    mean = ops.avg_pool(deep, [1, 1, 1], [1, 0, 0], [1, 0, 0], [3, 1, 1], True)
    return ops.squeeze(ops.multiply(deep, mean), ops.constant(1))


BODIES = [tiled, gated, positions, joined, pooled, flipped, pooled_over_channels]


@pytest.mark.parametrize('body', BODIES)
def test_computes_the_same(body):
    _, before, after = around(body)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_a_small_map_is_broadcast_and_no_map_is_tiled():
    graph, _, _ = around(tiled)
    (act,) = [n for n in graph.get_ops() if n.get_type_name() == 'PRelu']
    assert list(act.get_output_shape(0)) == [2, 24, 4, 8]
    assert 'Tile' not in kinds(graph)


def test_pooling_becomes_a_depthwise_convolution():
    graph, _, _ = around(pooled)
    assert 'AvgPool' not in kinds(graph)
    assert kinds(graph)['GroupConvolution'] == 1


def test_a_gate_is_computed_once_per_channel():
    graph, _, _ = around(gated)
    (gate,) = [n for n in graph.get_ops() if n.get_type_name() == 'Sigmoid']
    assert list(gate.get_output_shape(0)) == [2, 32, 1, 1]
