"""BinaryConfig checks its options, also those of a file from an unknown source."""

import copy
import json

import pytest
from torch import nn

pytest.importorskip('diffusers')

from mmesbnn.binary import BinaryOptions
from mmesbnn.diffusion import BinaryConfig
from mmesbnn.registry import SIGNS

WRONG = {
    'tau': [0, -1, 2**17, 1.5, '2', True, None, [2]],
    'es_groups': [0, 10**12, '1'],
    'keep': [7, [''], ['x' * 301], 'x' * 301, {'a': 1}, ['a'] * (2**16 + 1), [1]],
    'attention': [1, 'yes', None],
    'shortcuts': ['False', 0],
    'spread': [-1, 'wide', float('nan'), None],
    'sign': ['', 'os.system', 7, None, dict(clip=1), ['quadratic'], dict(type=dict(type='x'))],
    'weight_binarizer': [
        'nothing',
        dict(type='scaled_sign', attached=[1]),
        dict(type='scaled_sign', unknown=1),
        dict(type='scaled_sign', **{f'a{i}': 1 for i in range(20)}),
        'x' * 1000,
    ],
    'pad_value': [2, '0', 0.5],
    'latent_clip': [0, -1, 'one'],
    'layers': [[], 'conv_in', [''], ['a', 'a'], ['x' * 301], [7], ['a'] * (2**16 + 1)],
    'packed': [1, 'yes', None],
    'quant_method': ['torchao', None, 7],
}


@pytest.mark.parametrize('name, value', [(k, x) for k, values in WRONG.items() for x in values])
def test_wrong_options_of_a_file_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        BinaryConfig.from_dict({'quant_method': 'mmesbnn', name: value})


@pytest.mark.parametrize('options', [None, 'tau', 7, [('tau', 2)], {1: 2}, {'tow': 2, 'tau': 2}])
def test_other_things_than_options_are_refused(options):
    with pytest.raises(ValueError, match=r'quantization_config.*(a dict|tow)'):
        BinaryConfig.from_dict(options)


def test_a_file_gives_the_config_that_was_written():
    config = BinaryConfig(
        4,
        2,
        'mid_block',
        attention=True,
        shortcuts=True,
        spread=0.25,
        sign=dict(type='hard_tanh', clip=1.5),
        weight_binarizer='centred_sign',
        pad_value=1,
        latent_clip=1.0,
        layers=['a', 'b'],
        packed=False,
    )
    text = json.dumps(config.to_dict())
    again = BinaryConfig.from_dict(json.loads(text))
    assert again == config == copy.deepcopy(config) == config.copy()
    assert again != BinaryConfig()
    default, names = BinaryConfig().to_dict(), set(config.to_dict())
    assert {name for name in names if config.to_dict()[name] != default[name]} == (
        names - {'quant_method'}
    )
    assert again.options == BinaryOptions(4, 2, 0.25, config.sign, 'centred_sign', 1, 1.0)


def test_it_prints_the_options_that_are_not_defaults():
    assert repr(BinaryConfig(tau=4)) == 'BinaryConfig {"quant_method": "mmesbnn", "tau": 4}'


def test_options_of_a_call_replace_those_of_a_file():
    config, rest = BinaryConfig.from_dict({'tau': 4}, return_unused_kwargs=True, tau=2, other=1)
    assert config.tau == 2
    assert rest == {'other': 1}


@pytest.fixture
def other_sign():
    """Register a sign of another package."""

    @SIGNS.register_module(name='SignOfTests')
    class SignOfTests(nn.Module):
        pass

    yield 'SignOfTests'
    SIGNS.module_dict.pop('SignOfTests')


def test_a_file_cannot_name_signs_of_other_packages(other_sign):
    options = {**BinaryConfig().to_dict(), 'sign': other_sign}
    with pytest.raises(ValueError, match=r"sign='SignOfTests'.*of other packages"):
        BinaryConfig.from_dict(options)


def test_signs_of_other_packages_are_refused_before_a_model_is_trained(other_sign):
    for sign in (other_sign, dict(type=other_sign)):
        with pytest.raises(ValueError, match=r'sign=.*SignOfTests.* must be of this package'):
            BinaryConfig(sign=sign)
