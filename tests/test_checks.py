from pathlib import Path

import numpy as np
import pytest

from mmesbnn.checks import (
    check,
    check_positive,
    checked,
    each,
    either,
    filled_text,
    flag,
    integer,
    mapping,
    natural,
    number,
    one_of,
    optional,
    pair,
    path,
    positive_int,
    procedure,
    sequence,
)

NAN, INF = float('nan'), float('inf')
SHARE = number(above=0, below=1)
OPTIONS = each(mapping(['kind'], ['size']), size=positive_int)


@pytest.mark.parametrize(
    ('rule', 'good', 'bad', 'says'),
    [
        (natural, [0, 7, np.int64(3)], [-1, 1.0, True, None, '2'], 'an integer >= 0'),
        (integer(1, 32), [1, 32], [0, 33, NAN], 'an integer from 1 to 32'),
        (number(), [0, -1.5, np.float32(2)], [NAN, INF, True, '1'], 'a finite number'),
        (SHARE, [0.5], [0, 1, NAN], 'a number between 0 and 1'),
        (
            procedure,
            [dict, lambda: 1, lambda x=1: x],
            [len, lambda x: x, 'x', None, 3],
            'a function that needs no argument',
        ),
        (flag, [True, False], [0, 1, 'no', None], 'True or False'),
        (one_of(1, 3), [1, 3], [True, 2, [1]], '1 or 3'),
        (one_of('a', 'b', 'c'), ['a'], ['d', 1], r"one of \('a', 'b', 'c'\)"),
        (
            pair(natural),
            [3, (0, 1), [2, 2]],
            [(1,), (1, 2, 3), (1, -1), '12'],
            'an integer >= 0, or a pair of them',
        ),
        (
            sequence(natural, shortest=1),
            [[1], (2, 3)],
            [[], '1', 1, [None], {1: 2}],
            'a list of 1 or more values, each an integer >= 0',
        ),
        (
            sequence(natural, 2, distinct=True),
            [[1, 2]],
            [[1, 1], [1]],
            'a list of 2 different values, each an integer >= 0',
        ),
        (optional(positive_int), [None, 1], [0], 'an integer >= 1 or None'),
        (either(flag, filled_text), [True, 'a'], ['', 1], 'True or False or a text'),
        (path, ['a', Path('b')], ['', 3, None], 'a path'),
        (
            OPTIONS,
            [dict(kind=1), dict(kind=1, size=2)],
            [dict(), dict(kind=1, size=0), dict(kind=1, colour=2), 3, {'kind': 1, 2: 3}],
            'a dict with kind, maybe size',
        ),
    ],
)
def test_values_that_break_a_rule_are_named(rule, good, bad, says):
    for value in good:
        check('x', value, rule)
    for value in bad:
        with pytest.raises(ValueError, match=f'x=.* must be {says}'):
            check('x', value, rule)


@pytest.mark.parametrize('value', ['a\0b', Path('a\0b')])
def test_a_zero_byte_in_a_path_is_named(value):
    with pytest.raises(ValueError, match=r'x=.* must be a path.* \(it holds a zero byte\)'):
        check('x', value, optional(path))


def test_the_part_of_a_dict_that_is_wrong_is_named():
    for value, part in (
        (dict(), r"\(\['kind'\] is missing\)"),
        (dict(kind=1, colour=2), r"\(\['colour'\] is unknown\)"),
        (dict(kind=1, size=0), r'\(size=0 must be an integer >= 1\)'),
    ):
        with pytest.raises(ValueError, match=part):
            check('x', value, optional(OPTIONS))


class Odd:
    """Cannot be compared, like an array of several values or a fake tensor."""

    def __eq__(self, other):
        raise RuntimeError('no')

    __hash__ = None


def test_values_that_cannot_be_compared_are_named():
    with pytest.raises(ValueError, match=r"x=.*Odd.* must be 'a' or 1"):
        check('x', Odd(), one_of('a', 1))


def test_a_message_stays_short():
    with pytest.raises(ValueError, match='x=') as raised:
        check('x', 'long' * 10**6, flag)
    assert len(str(raised.value)) < 300


@checked(b=SHARE, extra=natural)
def example(a: int, b: float = 0.5, c: bool = True, *rest, d: str | None = None, **more):
    return a, b, c, rest, d, more


def test_a_function_names_its_arguments_as_the_caller_does():
    assert example(1) == (1, 0.5, True, (), None, {})
    assert example(1, 0.1, False, 'x', d='y', extra=2, other=-3)[3:] == (
        ('x',),
        'y',
        dict(extra=2, other=-3),
    )
    for call, name in (
        (lambda: example('1'), "a='1' must be an integer"),
        (lambda: example(1, 2.0), 'b=2.0 must be a number between 0 and 1'),
        (lambda: example(1, c=1), 'c=1 must be True or False'),
        (lambda: example(1, d=5), 'd=5 must be a text or None'),
        (lambda: example(1, extra=-2), 'extra=-2 must be an integer >= 0'),
    ):
        with pytest.raises(ValueError, match=name):
            call()
    with pytest.raises(TypeError, match="argument: 'a'"):
        example()


@pytest.mark.parametrize('value', [0, -1, 1.0, True, None, '2'])
def test_a_number_that_is_not_positive_is_named(value):
    with pytest.raises(ValueError, match=rf'jobs={value!r} must be an integer >= 1'):
        check_positive(threads=1, jobs=value)


def test_positive_numbers_pass():
    check_positive(threads=1, jobs=100)
