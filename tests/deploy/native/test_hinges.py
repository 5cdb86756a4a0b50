"""PReLUs of copies of integers are sums of the integers and of their maxima."""

import numpy as np
import pytest

pytest.importorskip('openvino')

from mmesbnn.deploy.native.expressions import Constant, Expressions, MapValue
from mmesbnn.deploy.native.hinges import hinge_of, mean_of
from mmesbnn.deploy.native.network import Network

PERIOD, COPIES = 5, 6


def prelu_of(index, scale, offset, slope, kind='int16'):
    x = Expressions()
    y = x.read(MapValue(kind, 4, 4, 12), index)
    scale, offset, slope = map(x.constant, (scale, offset, slope))
    return x.apply('prelu', x.apply('add', x.apply('mul', y, scale), offset), slope)


def constants(seed):
    random = np.random.default_rng(seed)
    scale, offset, slope = random.standard_normal((3, PERIOD * COPIES)) * [[0.1], [3], [2]]
    scale[::7], offset[::5] = 0, 0
    offset[3::7] *= 1e6  # bends beyond all integers
    return scale, offset, slope


@pytest.mark.parametrize('seed', range(5))
def test_a_hinge_is_the_prelu(seed):
    scale, offset, slope = constants(seed)
    tiled = 3 + np.arange(PERIOD * COPIES) % PERIOD
    hinge = hinge_of(prelu_of(tiled, scale, offset, slope))
    assert (hinge.first, hinge.period, hinge.copies) == (3, PERIOD, COPIES)
    scale, offset, slope = (a.astype(np.float32).astype(float) for a in (scale, offset, slope))
    for y in (-32767, -40, -1, 0, 1, 2, 30, 5000, 32767):
        inner = scale * y + offset
        expected = np.where(inner < 0, slope * inner, inner)
        found = hinge.line * y + hinge.top * np.maximum(y, hinge.bend) + hinge.base
        assert np.allclose(found, expected, rtol=1e-12, atol=1e-9)


def test_other_expressions_are_no_hinges():
    tiled, once = np.arange(30) % 5, np.arange(5)
    numbers = constants(0)
    assert hinge_of(prelu_of(tiled, *numbers)) is not None
    assert hinge_of(prelu_of(tiled, *numbers, kind='float')) is None
    assert hinge_of(prelu_of(once, *(a[:5] for a in numbers))) is None
    assert hinge_of(prelu_of(tiled[::-1].copy(), *numbers)) is None
    assert hinge_of(prelu_of(tiled[:28], *(a[:28] for a in numbers))) is None
    assert hinge_of(prelu_of(tiled, *numbers).arguments[0]) is None


def test_all_copies_share_the_mean_of_the_integers():
    network, tiled = Network(), np.arange(PERIOD * COPIES) % PERIOD
    mean_of(hinge_of(prelu_of(tiled, *constants(1))), (4, 4), network)
    means = [(one.to.channels, one.at, one.channels) for one in network.wanted]
    assert means == [(PERIOD, 0, PERIOD)] + [
        (PERIOD * COPIES, PERIOD * copy, PERIOD) for copy in range(COPIES)
    ]
    limits = [one.value.arguments[1] for one in network.wanted[1:]]
    assert all(isinstance(limit, Constant) for limit in limits)
    assert {one.value.arguments[0] for one in network.wanted[1:]} == {network.wanted[0].value}
