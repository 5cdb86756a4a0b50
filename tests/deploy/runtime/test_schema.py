"""Kinds of values report the error and its place."""

from dataclasses import dataclass

import pytest

from mmesbnn.deploy.runtime.schema import (
    Digits,
    Either,
    Flag,
    Integer,
    ListOf,
    Maybe,
    Nested,
    Number,
    OneOf,
    Part,
    Record,
    Tagged,
    Text,
    Unfit,
    entry,
)


@dataclass(frozen=True)
class Pad(Part):
    size: int = entry(Integer(1, 9))


@dataclass(frozen=True)
class Crop(Part):
    pass


@dataclass(frozen=True)
class Plan(Part):
    steps: tuple[Pad | Crop, ...] = entry(ListOf(Tagged('type', {'pad': Pad, 'crop': Crop}), 0, 9))
    first: Pad | None = entry(Nested(Pad), default=None)

    def check_relations(self):
        if self.first and self.steps and self.steps[0] != self.first:
            raise Unfit('first', self.first, 'the first step')


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
        (Either(Flag(), Integer(2, 3)), [True, 2], [4, 'a']),
    ],
)
def test_kinds(kind, good, bad):
    for value in good:
        kind.check(value, 'x')
    for value in bad:
        with pytest.raises(Unfit, match=r'^x'):
            kind.check(value, 'x')


PLAN = {'steps': [{'type': 'pad', 'size': 2}, {'type': 'crop'}], 'first': {'size': 2}}


def test_parts_are_read_and_written():
    plan = Plan.from_dict(PLAN)
    assert plan == Plan((Pad(2), Crop()), first=Pad(2))
    assert plan.to_dict()['first'] == {'size': 2}
    assert 'first' not in Plan(()).to_dict()


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ({'steps': [{'type': 'crop'}, {'type': 'pad', 'size': 0}]}, r'a\.steps\[1\]\.size=0 '),
        ({'steps': [{'type': 'crop', 'size': 3}]}, r'a\.steps\[0\]\.size=3 must be left out'),
        ({'steps': [{'type': 'x'}]}, r"a\.steps\[0\]\.type='x'"),
        ({'steps': [{'type': []}]}, r'a\.steps\[0\]\.type=\[\]'),
        ({'steps': [{}]}, r'a\.steps\[0\]={}'),
        ({'steps': [5]}, r'a\.steps\[0\]=5'),
        ({**PLAN, 'first': {'size': 3}}, r'a\.first=Pad'),
        ({**PLAN, 'first': None}, r'a\.first=None'),
        ({**PLAN, 'last': 1}, r'a\.last=1 must be left out; known are steps, first'),
        ({}, r'a={}.*steps'),
        ([], r'a=\[\]'),
    ],
)
def test_places_are_named(content, words):
    with pytest.raises(Unfit, match='^' + words):
        Plan.from_dict(content, 'a')


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        (dict(steps=(Pad(2), 5)), r'steps\[1\]=5'),
        (dict(steps=(), first=Crop()), 'first=Crop'),
        (dict(steps=(Crop(),), first=Pad(1)), 'first=Pad'),
    ],
)
def test_parts_check_themselves(values, words):
    with pytest.raises(Unfit, match='^' + words):
        Plan(**values)
    with pytest.raises(Unfit, match=r'^size=0'):
        Pad(0)


def test_sentences_are_short():
    with pytest.raises(Unfit) as caught:
        Integer(1, 2).check('x' * 10**6, 'here')
    assert len(str(caught.value)) < 200
