"""Arithmetic of expanding and shrinking."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn.binary import Expansion, ShrunkConv2d, ShrunkLinear, tile
from mmesbnn.binary.expansion import spread_thresholds, tiled_affine
from tests.binary.es_reference import assert_same, double


@pytest.mark.parametrize(
    ('tau', 'groups', 'factor', 'copies'),
    [(1, 1, 1, 1), (2, 1, 2, 4), (1, 3, 3, 3), (2, 3, 6, 12), (4, 2, 8, 32)],
)
def test_expansion_arithmetic(tau, groups, factor, copies):
    expansion = Expansion(tau, groups)
    assert expansion.factor == factor
    assert expansion.copies == copies
    assert expansion.width(24) == 24 * factor
    assert expansion.kernels(24) == 24 // tau
    assert expansion.kernels(24) * copies == expansion.width(24)


def test_expansion_is_none_by_default_and_compares_by_value():
    assert Expansion() == Expansion(1, 1) != Expansion(2)
    assert Expansion(2, 3) == Expansion(tau=2, groups=3)


@pytest.mark.parametrize('value', [0, -1, 1.0, 2.5, True, '2', None])
@pytest.mark.parametrize('name', ['tau', 'groups'])
def test_factors_that_are_no_positive_integers_are_refused(name, value):
    message = f'{name}={value!r} must be an integer >= 1'
    with pytest.raises(ValueError, match=re.escape(message)):
        Expansion(**{name: value})


@pytest.mark.parametrize(
    ('tau', 'groups', 'message'),
    [
        (3, 1, 'tau=3 does not divide out_channels=64'),
        (128, 1, 'tau=128 does not divide out_channels=64'),
        (2, 3, 'es_groups=3 does not divide out_channels / tau = 64 / 2 = 32'),
        (2, 64, 'es_groups=64 does not divide out_channels / tau = 64 / 2 = 32'),
    ],
)
def test_factors_that_do_not_divide_are_refused_at_construction(tau, groups, message):
    with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
        Expansion(tau, groups).kernels(64)
    with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
        ShrunkConv2d(8, 64, 3, expansion=Expansion(tau, groups))
    with pytest.raises(ValueError, match=re.escape(message.replace('channels', 'features'))):
        ShrunkLinear(8, 64, expansion=Expansion(tau, groups))


def test_error_messages_take_the_name_they_are_given():
    with pytest.raises(ValueError, match='tau=2 does not divide width=5'):
        Expansion(2).kernels(5, 'width')
    with pytest.raises(ValueError, match='does not divide width=0'):
        Expansion(2).kernels(0, 'width')


@given(st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_tile_repeats_the_whole_axis(copies, shape, data):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = torch.randn(shape)
    assert torch.equal(tile(x, copies, dim), torch.cat([x] * copies, dim))


def test_tile_order_is_copy_by_copy():
    x = torch.tensor([1, 2, 3]).view(1, 3, 1, 1)
    assert tile(x, 2).flatten().tolist() == [1, 2, 3, 1, 2, 3]
    assert tile(x, 1) is x


def test_spread_thresholds_formula():
    assert spread_thresholds(2, 3, 4.0).tolist() == [-4, -4, 0, 0, 4, 4]
    assert spread_thresholds(3, 1, 4.0).tolist() == [0, 0, 0]
    assert spread_thresholds(2, 2, 0.0).tolist() == [0, 0, 0, 0]


def test_tiled_affine_is_an_affine_of_the_tiled_map():
    x, scale, shift = double(2, 3, 4, 5), double(12), double(12)
    expected = torch.cat([x] * 4, 1) * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    assert_same(tiled_affine(x, scale, shift), expected)
