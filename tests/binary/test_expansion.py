"""Arithmetic of expanding and shrinking."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn.binary import Expansion, ShrunkConv2d, ShrunkLinear, tile
from mmesbnn.binary.expansion import (
    copy_signs,
    one_sided_thresholds,
    spread_thresholds,
    tiled_affine,
)
from tests.binary.es_reference import assert_same, double
from tests.defaults import torch_default, with_other_defaults


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


ALSO = 'in backbones es_groups is called groups'


@pytest.mark.parametrize(
    ('tau', 'groups', 'message'),
    [
        (3, 1, 'tau=3 does not divide out_channels=64'),
        (128, 1, 'tau=128 does not divide out_channels=64'),
        (2, 3, f'es_groups=3 does not divide out_channels / tau = 64 / 2 = 32; {ALSO}'),
        (2, 64, f'es_groups=64 does not divide out_channels / tau = 64 / 2 = 32; {ALSO}'),
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


def test_one_sided_thresholds_end_at_0():
    assert one_sided_thresholds(2, 3, 4.0).tolist() == [-8, -8, -4, -4, 0, 0]
    assert one_sided_thresholds(3, 1, 4.0).tolist() == [0, 0, 0]
    assert one_sided_thresholds(2, 2, 0.0).tolist() == [0, 0, 0, 0]


def test_spread_thresholds_formula():
    assert spread_thresholds(2, 3, 4.0).tolist() == [-4, -4, 0, 0, 4, 4]
    assert spread_thresholds(3, 1, 4.0).tolist() == [0, 0, 0]
    assert spread_thresholds(2, 2, 0.0).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize('shape', [(2, 3, 4, 5), (2, 3, 1, 5), (1, 3, 4, 1)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_tiled_affine_is_an_affine_of_the_tiled_map(layout, shape):
    x, scale, shift = double(*shape).contiguous(memory_format=layout), double(12), double(12)
    expected = torch.cat([x] * 4, 1) * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    y = tiled_affine(x, scale, shift)
    assert_same(y, expected)
    assert y.is_contiguous(memory_format=layout)


def drawn(*args):
    """Return the signs of seed 0 and the state of torch's generator."""
    torch.manual_seed(0)
    signs = copy_signs(*args)
    return signs, torch.get_rng_state()


@pytest.mark.parametrize('args', [(5, 4, 'alike'), (5, 1, 'signs'), (5, 1, 'balanced')])
def test_copies_that_start_alike_have_plus_one_and_nothing_is_drawn(args):
    signs, after = drawn(*args)
    assert signs.tolist() == [1] * (args[0] * args[1])
    torch.manual_seed(0)
    assert torch.equal(after, torch.get_rng_state())


def test_signs_are_those_of_a_coin():
    signs = drawn(5000, 3, 'signs')[0].view(3, 5000)
    assert signs.unique().tolist() == [-1, 1]
    # five standard deviations of a mean of 5000, and of a product's
    assert signs.mean(1).abs().max() < 5 / 5000**0.5
    assert torch.corrcoef(signs).fill_diagonal_(0).abs().max() < 5 / 5000**0.5


@pytest.mark.parametrize('copies, negative', [(2, 1), (3, 1), (4, 2), (8, 4)])
def test_balanced_signs_have_half_of_the_copies_of_every_channel(copies, negative):
    signs = drawn(3000, copies, 'balanced')[0].view(copies, 3000)
    assert torch.equal(signs == -1, signs != 1)
    assert ((signs == -1).sum(0) == negative).all()
    # every copy is equally often among them
    share = (signs == -1).double().mean(1)
    assert (share - negative / copies).abs().max() < 5 * 0.5 / 3000**0.5


@pytest.mark.parametrize('copy_init', ['signs', 'balanced'])
def test_signs_repeat_with_the_seed(copy_init):
    assert torch.equal(drawn(40, 4, copy_init)[0], drawn(40, 4, copy_init)[0])
    assert not torch.equal(drawn(40, 4, copy_init)[0], copy_signs(40, 4, copy_init))


@with_other_defaults
@pytest.mark.parametrize('copy_init', ['alike', 'signs', 'balanced'])
def test_a_seed_gives_the_same_signs_whatever_the_defaults_of_torch_are(copy_init, default):
    torch.manual_seed(1)
    expected = copy_signs(8, 4, copy_init)
    torch.manual_seed(1)
    with torch_default(default):
        found = copy_signs(8, 4, copy_init)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
