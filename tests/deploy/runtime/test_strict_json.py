"""JSON is read within limits."""

import json
import time

import pytest

from mmesbnn.deploy.runtime.strict_json import parse_strict_json


def test_plain_json():
    content = {'a': [1, 2.5, None, True, '[{"\\'], 'b': {'c': []}}
    assert parse_strict_json(json.dumps(content), 3) == content


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('[' * 100_000, 'nested more than 5 deep'),
        ('{"a":' * 100_000, 'nested more than 5 deep'),
        ('["[[[[[[", [[[[[[]]]]]]]', 'nested more than 5 deep'),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' occurs twice"),
        ('[NaN]', 'NaN is not a number'),
        ('[-Infinity]', '-Infinity is not a number'),
        ('1' * 5000, 'integer'),
        ('{', 'Expecting'),
    ],
)
def test_what_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_strict_json(text, 5)


def test_brackets_in_strings_do_not_count():
    assert parse_strict_json('["[[[[[[[[[[\\"[[[["]', 1) == ['[[[[[[[[[["[[[[']


@pytest.mark.parametrize('text', ['"' + '\\"' * 10**6, '"\\' * 10**6, '""[]' * 10**5])
def test_the_time_is_linear(text):
    began = time.process_time()
    with pytest.raises(ValueError):
        parse_strict_json(text, 5)
    # a quadratic search would take hours
    assert time.process_time() - began < 60
