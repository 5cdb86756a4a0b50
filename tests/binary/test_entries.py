"""Specs of signs and weight binarizers: arguments of a network, copies of modules."""

import pytest
from torch import nn

from mmesbnn.binary import (
    BinaryConv2d,
    ESLinear,
    Heaviside,
    LearnedScaleWeight,
    QuadraticSign,
    build_sign,
)
from mmesbnn.binary.entries import SIGNS, WEIGHT_BINARIZERS, with_zero


class Plain(nn.Module):
    """A sign of a user without arguments."""


def test_a_spec_gets_the_arguments_that_its_class_has():
    assert SIGNS.filled('hard_tanh', zero=0, beta=2) == dict(type='hard_tanh', zero=0)
    assert SIGNS.filled(dict(type='quadratic', zero=-1), zero=0)['zero'] == -1
    assert SIGNS.filled(dict(type=Plain), zero=0) == dict(type=Plain)
    module = QuadraticSign()
    assert SIGNS.filled(module, zero=0) is module
    filled = WEIGHT_BINARIZERS.filled('temperature', binary_below=1e-5, channels=3)
    assert filled == dict(type='temperature', binary_below=1e-5)


def test_filling_leaves_the_given_dict_alone():
    spec = dict(type='hard_tanh', clip=2.0)
    SIGNS.filled(spec, zero=0), SIGNS.build(spec, zero=0)
    assert spec == dict(type='hard_tanh', clip=2.0)


def test_layers_do_not_share_a_module():
    given, scale = QuadraticSign(zero=0), LearnedScaleWeight(4)
    layers = [BinaryConv2d(2, 4, 1, sign=given, weight_binarizer=scale) for _ in range(2)]
    layers.append(ESLinear(2, 8, tau=2, sign=given, weight_binarizer=scale).linear)
    assert all(layer.sign.zero == 0 for layer in layers)
    assert len({id(given), *(id(layer.sign) for layer in layers)}) == 4
    assert len({id(scale.scale), *(id(x.weight_binarizer.scale) for x in layers)}) == 4
    assert build_sign(given) is not given


def test_the_value_of_sign_0_goes_to_both():
    parts = with_zero(dict(type='swish', beta=2.0), 'centred_sign', 0)
    assert parts == dict(
        sign=dict(type='swish', beta=2.0, zero=0),
        weight_binarizer=dict(type='centred_sign', zero=0),
    )
    assert with_zero('heaviside', 'plain_sign', 0)['weight_binarizer']['zero'] == 0


@pytest.mark.parametrize(
    ('sign', 'weights'),
    [
        ('dorefa', 'real'),
        (Heaviside(), 'fixed'),
        (dict(type='quadratic', zero=-1), 'real'),
        (QuadraticSign(zero=0), dict(type='scaled_sign', zero=-1)),
    ],
)
def test_a_value_of_sign_0_without_effect_is_refused(sign, weights):
    with pytest.raises(
        ValueError, match=r'sign_zero=0 has no effect: sign=.* and weight_binarizer='
    ):
        with_zero(sign, weights, 0)
    assert with_zero(sign, weights, -1)  # which is the default


@pytest.mark.parametrize(
    ('sign', 'weights', 'message'),
    [
        ('none', 'real', "sign='none': the type must be one of"),
        ('quadratic', 'none', "weight_binarizer='none': the type must be one of"),
        (None, 'real', 'sign=None'),
        ('quadratic', 3, 'weight_binarizer=3'),
    ],
)
def test_unknown_names(sign, weights, message):
    with pytest.raises(ValueError, match=message):
        with_zero(sign, weights, -1)
