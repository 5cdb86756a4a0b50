import pytest

pytest.importorskip('openvino')

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from mmesbnn.deploy.openvino.copies import sum_kernels_of_copies
from tests.deploy.graphs import constants, kinds, run_graph


def excited(repeats, *, channels=6, groups=1, size=1, entrywise=ops.relu):
    """Return a convolution of copies, and its input."""
    rng = np.random.default_rng(0)
    x = ops.parameter([2, channels, 5, 4], np.float32)
    copies = ops.tile(x, ops.constant(np.array(repeats)))
    width = channels * repeats[1]
    if entrywise is not None:
        copies = entrywise(copies)
    shape = (groups, 8 // groups, width // groups, size, size)
    kernels = rng.standard_normal(shape).astype(np.float32)
    settings = [1, 1], [size // 2] * 2, [size // 2] * 2, [1, 1]
    if groups == 1:
        y = ops.convolution(copies, ops.constant(kernels[0]), *settings)
    else:
        y = ops.group_convolution(copies, ops.constant(kernels), *settings)
    value = rng.standard_normal((2, channels, 5, 4)).astype(np.float32)
    return ov.Model([y], [x]), value


def folded(graph, x):
    """Apply the pass, compare outputs, and return the number of weights before and after."""
    expected = run_graph(graph.clone(), x)[0]
    before = sum(node.get_data().size for node in constants(graph, ov.Type.f32))
    sum_kernels_of_copies(graph)
    np.testing.assert_allclose(run_graph(graph, x)[0], expected, rtol=1e-5, atol=1e-5)
    return before, sum(node.get_data().size for node in constants(graph, ov.Type.f32))


@pytest.mark.parametrize('size', [1, 3])
@pytest.mark.parametrize('entrywise', [None, ops.relu, ops.sigmoid])
def test_a_convolution_of_copies_reads_one(size, entrywise):
    graph, x = excited([1, 4, 1, 1], size=size, entrywise=entrywise)
    before, after = folded(graph, x)
    assert before == 4 * after
    assert 'Tile' not in kinds(graph)


def test_groups_that_read_whole_copies_become_one_convolution():
    graph, x = excited([1, 8, 1, 1], groups=2)
    before, after = folded(graph, x)
    assert before == 4 * after
    assert kinds(graph)['Convolution'] == 1
    assert 'GroupConvolution' not in kinds(graph)


@pytest.mark.parametrize(
    ('repeats', 'groups'),
    [([1, 2, 1, 1], 4), ([1, 1, 2, 1], 1), ([1, 2, 2, 1], 1)],
    ids=['groups read parts of copies', 'copies of rows', 'copies of channels and rows'],
)
def test_other_copies_stay(repeats, groups):
    graph, x = excited(repeats, groups=groups)
    before, after = folded(graph, x)
    assert before == after
    assert kinds(graph)['Tile'] == 1
