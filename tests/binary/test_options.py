"""Options of all functions and classes that make layers binary."""

import dataclasses
import json
import re

import pytest
from torch import nn

from mmesbnn.binary import BinaryOptions, QuadraticSign, binarize
from mmesbnn.binary.options import merged_options
from mmesbnn.models.layers import es_conv2d

OTHERS = dict(
    tau=2,
    es_groups=4,
    spread=0.25,
    sign=dict(type='hard_tanh', clip=1.5),
    weight_binarizer='centred_sign',
    pad_value=-1,
    latent_clip=1.0,
)


def net():
    return nn.Sequential(*(nn.Conv2d(8, 8, 1) for _ in range(3)))


@pytest.mark.parametrize('given', [dict(), OTHERS, dict(sign=None)])
def test_they_are_restored_from_json(given):
    options = BinaryOptions(**given)
    assert BinaryOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_every_option_is_checked():
    bad = dict(tau=0, es_groups=1.5, spread=-1, sign='cubic', weight_binarizer='cubic')
    bad.update(pad_value=2, latent_clip=0)
    assert set(bad) == {field.name for field in dataclasses.fields(BinaryOptions)}
    for name, value in bad.items():
        with pytest.raises(ValueError, match=re.escape(f'{name}={value!r}')):
            BinaryOptions.from_dict({name: value})


def test_unknown_options_are_refused_by_name():
    with pytest.raises(ValueError, match='groups, width'):
        BinaryOptions.from_dict(dict(tau=2, groups=2, width=3))


def test_modules_cannot_be_stored():
    with pytest.raises(ValueError, match=r'sign=QuadraticSign\(...\) cannot be stored'):
        BinaryOptions(sign=QuadraticSign()).to_dict()


@pytest.mark.parametrize('whole', [BinaryOptions(**OTHERS), OTHERS])
def test_binarize_and_conv_cfg_take_them_whole_or_by_keyword(whole):
    for options in (dict(options=whole), OTHERS):
        model = net()
        report = binarize(model, **options)
        assert report.options == BinaryOptions(**OTHERS)
        for layer in (model[1], es_conv2d(8, 8, 1, **options)):
            assert (layer.expansion.tau, layer.expansion.groups) == (2, 4)
            assert layer.shift.min() == -0.5 and layer.conv.pad_value == -1
            assert layer.conv.sign.clip == 1.5
            assert layer.conv.parameter_bounds == {'weight': (-1.0, 1.0)}


@pytest.mark.parametrize(
    'build', [lambda **x: binarize(net(), **x), lambda **x: es_conv2d(8, 8, 1, **x)]
)
def test_options_given_twice_are_refused(build):
    with pytest.raises(ValueError, match='options and tau are both given'):
        build(tau=2, options=BinaryOptions())


def test_a_mapping_leaves_out_what_has_the_functions_default():
    defaults = BinaryOptions(tau=2, pad_value=1)
    assert merged_options(dict(tau=4), {}, defaults) == BinaryOptions(tau=4, pad_value=1)
    assert merged_options(None, dict(spread=0.1), defaults) == BinaryOptions(
        tau=2, pad_value=1, spread=0.1
    )
    assert merged_options(BinaryOptions(), {}, defaults) == BinaryOptions()


def test_conv_cfg_refuses_unknown_options():
    with pytest.raises(ValueError, match=r'unknown options.*tua'):
        es_conv2d(8, 8, 1, tua=2)
