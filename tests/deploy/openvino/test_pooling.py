import itertools

import pytest

pytest.importorskip('openvino')

import numpy as np
import torch
from torch import nn

from mmesbnn.deploy import to_openvino
from tests.deploy.graphs import kinds, run_graph

SIZES = [(5, 9), (6, 8)]
KERNELS = [(3, 2), (3, 3)]
STRIDES = [(2, 2), (4, 3)]


@pytest.mark.parametrize('padding', [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize('counted', [True, False])
def test_means_are_those_of_torch(padding, counted):
    for size, kernel, stride in itertools.product(SIZES, KERNELS, STRIDES):
        pool = nn.AvgPool2d(kernel, stride, padding, True, counted)
        x = torch.rand(2, 3, *size)
        graph = to_openvino(pool, [x]).graph
        np.testing.assert_allclose(run_graph(graph, x.numpy())[0], pool(x), rtol=1e-5, atol=1e-6)


def test_nothing_is_padded_where_no_window_ends_beyond_the_padding():
    pool, x = nn.AvgPool2d(3, 2, 1, ceil_mode=True), torch.rand(1, 3, 9, 9)
    assert 'Pad' not in kinds(to_openvino(pool, [x]).graph)
