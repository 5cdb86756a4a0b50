import pytest

pytest.importorskip('openvino')

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from mmesbnn.deploy.openvino.means import push_means
from tests.deploy.graphs import kinds, run_graph


def gate(read_twice):
    """Return ``mean(a x + (1 - a) relu(x))``, and the map itself if requested."""
    rng = np.random.default_rng(0)
    a = rng.random((1, 5, 1, 1), np.float32)
    x = ops.parameter([2, 5, 6, 7], np.float32)
    mixed = ops.add(
        ops.multiply(x, ops.constant(a)), ops.multiply(ops.relu(x), ops.constant(1 - a))
    )
    mean = ops.reduce_mean(mixed, ops.constant(np.array([2, 3])), True)
    results = [mean, mixed] if read_twice else [mean]
    value = rng.standard_normal((2, 5, 6, 7)).astype(np.float32)
    mixed_value = a * value + (1 - a) * np.maximum(value, 0)
    expected = mixed_value.astype(np.float64).mean((2, 3), keepdims=True)
    return ov.Model(results, [x]), value, expected


def test_a_map_that_is_only_averaged_is_not_made():
    graph, x, expected = gate(read_twice=False)
    push_means(graph)
    np.testing.assert_allclose(run_graph(graph, x)[0], expected, rtol=1e-5, atol=1e-6)
    adds = [n for n in graph.get_ops() if n.get_type_name() == 'Add']
    assert [list(n.get_output_shape(0)) for n in adds] == [[2, 5, 1, 1]]
    assert kinds(graph)['ReduceMean'] == 2


def test_a_map_that_is_read_otherwise_stays():
    graph, x, expected = gate(read_twice=True)
    push_means(graph)
    np.testing.assert_allclose(run_graph(graph, x)[0], expected, rtol=1e-5, atol=1e-6)
    assert kinds(graph)['ReduceMean'] == 1


@pytest.mark.parametrize(('size', 'is_left_out'), [((6, 8), True), ((5, 8), False)])
def test_the_mean_of_means_of_windows_is_that_of_the_map(size, is_left_out):
    x = ops.parameter([1, 4, *size], np.float32)
    # like torch: windows at an odd end are smaller, so their pixels count more
    pooled = ops.avg_pool(ops.relu(x), [2, 2], [0, 0], [0, 0], [2, 2], True, 'ceil')
    mean = ops.reduce_mean(pooled, ops.constant(np.array([2, 3])), True)
    graph = ov.Model([mean], [x])
    value = np.random.default_rng(0).standard_normal((1, 4, *size)).astype(np.float32)
    expected = run_graph(graph.clone(), value)[0]
    push_means(graph)
    np.testing.assert_allclose(run_graph(graph, value)[0], expected, rtol=1e-5, atol=1e-6)
    assert ('AvgPool' not in kinds(graph)) == is_left_out


@pytest.mark.parametrize('has_gate', [True, False])
def test_the_mean_of_a_residual_follows_if_the_means_of_its_parts_are_known(has_gate):
    axes = np.array([2, 3])
    x = ops.parameter([2, 5, 6, 7], np.float32)
    r, y = ops.exp(x), ops.relu(x)
    means = [ops.reduce_mean(part, ops.constant(axes), True) for part in (r, y)]
    gate = ops.subtract(*means) if has_gate else ops.constant(np.float32(2))
    out = ops.concat([ops.add(r, ops.multiply(y, gate)), r], 1)
    graph = ov.Model([ops.reduce_mean(out, ops.constant(axes), True), out], [x])
    value = np.random.default_rng(0).standard_normal((2, 5, 6, 7)).astype(np.float32)
    push_means(graph)
    wide = [np.exp(value.astype(np.float64)), np.maximum(value, 0).astype(np.float64)]
    factor = np.subtract(*(part.mean((2, 3), keepdims=True) for part in wide)) if has_gate else 2
    expected = np.concatenate([wide[0] + factor * wide[1], wide[0]], 1)
    mean, whole = run_graph(graph, value)
    np.testing.assert_allclose(mean, expected.mean((2, 3), keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-6)
    assert kinds(graph)['ReduceMean'] == (2 if has_gate else 1)


def test_many_sums_of_a_map_with_itself_take_no_long_time():
    x = ops.parameter([1, 3, 4, 4], np.float32)
    y = ops.relu(x)
    for _ in range(200):
        y = ops.add(y, y)
    mean = ops.reduce_mean(y, ops.constant(np.array([2, 3])), True)
    graph = ov.Model([mean, y], [x])
    push_means(graph)
    assert kinds(graph)['ReduceMean'] == 1
