"""Kinds of values say what is wrong, and where."""

import pytest

from mmesbnn.deploy.runtime.schema import (
    Digits,
    Either,
    Flag,
    Integer,
    ListOf,
    Maybe,
    Number,
    OneOf,
    Record,
    Tagged,
    Text,
    Unfit,
)

TAGGED = Tagged('type', {'pad': Record({'size': Integer(1, 9)}), 'crop': Record()})


@pytest.mark.parametrize(
    ('kind', 'good', 'bad'),
    [
        (Integer(1, 9), [1, 9], [0, 10, 5.0, True, '5', None, 10**400]),
        (Number(0, 1), [0, 1, 0.5], [-1e-9, float('nan'), float('inf'), False, '0']),
        (Number(0, 1, above=True), [1e-300], [0, 0.0, 10**400]),
        (Flag(), [True, False], [0, 1, None, 'true']),
        (OneOf(('a', 'b')), ['a'], ['c', 1, ['a'], None]),
        (Text(3, least=1), ['abc', 'ä'], ['', 'abcd', 5, 'a\n', '\x1b[', '\ud800']),
        (Digits(4), ['09af'], ['09AF', '09a', 4, '09ag']),
        (Maybe(Flag()), [None, True], [0]),
        (ListOf(Flag(), 1, 2), [[True], (True, False)], [[], [True] * 3, 'a', [1]]),
        (
            Record({'a': Flag()}, {'b': Flag()}),
            [{'a': True}, {'a': True, 'b': False}],
            [{}, {'b': True}, {'a': True, 'c': 1}, [], {'a': 1}, None],
        ),
        (Record({'a': Flag()}, closed=False), [{'a': True, 'c': 1}], [{'c': 1}]),
        (
            TAGGED,
            [{'type': 'pad', 'size': 2}, {'type': 'crop'}],
            [{}, {'type': 'x'}, {'type': []}, {'type': 'crop', 'size': 2}, 5],
        ),
        (Either(Flag(), Integer(2, 3)), [True, 2], [4, 'a']),
    ],
)
def test_kinds(kind, good, bad):
    for value in good:
        kind.check(value, 'x')
    for value in bad:
        with pytest.raises(Unfit, match=r'^x'):
            kind.check(value, 'x')


def test_places_are_named():
    kind = Record({'steps': ListOf(TAGGED, 0, 9)})
    with pytest.raises(Unfit) as caught:
        kind.check({'steps': [{'type': 'crop'}, {'type': 'pad', 'size': 0}]}, '')
    assert str(caught.value) == 'steps[1].size=0 must be an integer from 1 to 9'
    with pytest.raises(Unfit, match=r'^steps\[0\].size=3 must be left out; known are'):
        kind.check({'steps': [{'type': 'crop', 'size': 3}]}, '')


def test_sentences_are_short():
    with pytest.raises(Unfit) as caught:
        Integer(1, 2).check('x' * 10**6, 'here')
    assert len(str(caught.value)) < 200
