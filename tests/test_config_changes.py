"""Changes of a config on a command line."""

import argparse

import pytest

from mmesbnn import cli


def read(*given):
    parser = argparse.ArgumentParser()
    cli.add_cfg_options(parser)
    return parser.parse_args(['--cfg-options', *given]).cfg_options


@pytest.mark.parametrize(
    ('given', 'value'),
    [
        ('../my data/a  b', '../my data/a  b'),
        ('data (1)/x', 'data (1)/x'),
        ('"a b"', 'a b'),
        ('1 2', '1 2'),
        (' 3 ', 3),
        ('1e-3', 1e-3),
        ('None', None),
        ('', ''),
        ('[a b, c d]', ['a b', 'c d']),
        ('[ (1, 2 ) , [ a b,c ], d]', [(1, 2), ['a b', 'c'], 'd']),
        ('1, 2', [1, 2]),
        ('key=value', 'key=value'),
    ],
)
def test_values(given, value):
    assert read(f'a.b={given}') == {'a.b': value}


def test_last_change_of_a_key_counts():
    assert read('a=1', 'b=x y', 'a=2') == {'a': 2, 'b': 'x y'}


@pytest.mark.parametrize(
    ('given', 'says'),
    [
        ('a', "'a' must have the form KEY=VALUE"),
        ('=3', "'=3' must have the form KEY=VALUE"),
        ('a=[1,2', "'a=[1,2' must close its brackets"),
        ('a=(1))', "'a=(1))' must close its brackets"),
    ],
)
def test_errors(given, says, capsys):
    with pytest.raises(SystemExit) as error:
        read(given)
    assert error.value.code == 2
    assert f'argument --cfg-options: {says}' in capsys.readouterr().err
