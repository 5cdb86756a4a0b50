import argparse
from pathlib import Path

import pytest

from mmesbnn import options


@pytest.mark.parametrize(
    ('kind', 'good', 'bad', 'says'),
    [
        (
            options.count,
            [('1', 1)],
            ['0', '-1', '2.5', 'nan', '9' * 40, ''],
            'an integer from 1 to 1000000',
        ),
        (options.pixels_or_none, [('0', 0)], ['-1', 'x'], 'an integer from 0 to 65536'),
        (
            options.fraction,
            [('0.3', 0.3)],
            ['nan', 'inf', '-0.1', '1e400', 'x'],
            'a number from 0 to 1',
        ),
        (options.positive, [('3', 3.0)], ['0', 'nan', 'inf'], 'a finite number > 0'),
        (options.name, [('a b', 'a b')], [''], 'a text'),
        (options.path, [('a/b', Path('a', 'b'))], [''], 'a text'),
    ],
)
def test_what_options_take(kind, good, bad, says):
    for text, value in good:
        assert kind(text) == value
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f'must be {says}'):
            kind(text)


def test_a_parser_names_the_option(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument('--batch', type=options.count)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(['--batch', 'x' * 10_000])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "argument --batch: 'xxx" in said and 'must be an integer' in said
    assert len(said) < 300
