"""Convolutions of bits pad as torch's, where the graph for OpenVINO pads before the signs."""

import numpy as np
import pytest
import torch

pytest.importorskip('openvino')

from mmesbnn import native
from mmesbnn.binary import BinaryConv2d
from mmesbnn.deploy.native.axes import NotCovered
from mmesbnn.deploy.openvino.graph import binary_graph
from tests.deploy.native.test_compiling import Odd, compiled, engine

needs_library = pytest.mark.skipif(
    not native.available(), reason='the native kernels are not compiled'
)

WIDE = dict(padding=6, dilation=6)


def convolution(channels, kernels, **options):
    torch.manual_seed(0)
    return BinaryConv2d(channels, kernels, 3, **options).eval()


def pads_of(model, x):
    graph, _ = binary_graph(model, [x])
    return sum(node.get_type_name() == 'Pad' for node in graph.get_ops())


@needs_library
@pytest.mark.parametrize('pad_value', [-1, 0, 1])
@pytest.mark.parametrize(
    ('channels', 'options', 'pads'),
    [
        (8, WIDE, 1),  # pixels
        (4, dict(padding=1), 1),  # channels
        (4, WIDE, 2),
        (16, dict(groups=2, **WIDE), 1),
        (8, dict(groups=2, padding=1), 2),
        (5, dict(padding=1), 1),  # doubled, then padded
        (16, dict(padding=(0, 4), stride=2), 1),
    ],
)
def test_padding_is_that_of_torch(channels, options, pads, pad_value):
    model = convolution(channels, 6, pad_value=pad_value, **options)
    x = torch.randn(2, channels, 11, 13)
    assert pads_of(model, x[:1]) >= pads
    (ours,) = engine(*compiled(model, x)).run(x.numpy())
    with torch.no_grad():
        exact = model.double()(x.double()).numpy()
    np.testing.assert_allclose(ours, exact, rtol=1e-6, atol=1e-6)


def test_other_padding_is_named():
    x = torch.randn(1, 8, 6, 6)
    with pytest.raises(NotCovered, match=r'Pad .* read by what needs a map of numbers'):
        compiled(Odd(lambda x: torch.nn.functional.pad(x, (1, 1, 1, 1)) + 1), x)
    with pytest.raises(NotCovered, match='pads other than pixels or the last channels'):
        compiled(Odd(lambda x: torch.nn.functional.pad(x, (1, 1, 1, 1), mode='reflect') + 1), x)
    # an odd number of channels is doubled after the pixels are padded
    with pytest.raises(NotCovered, match=r'Pad .* read by what needs a map of numbers'):
        compiled(convolution(5, 6, pad_value=-1, **WIDE), torch.randn(1, 5, 11, 13))
