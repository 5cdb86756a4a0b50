"""A config in YAML is data: none of its tags runs. YAML and JSON have limits."""

import json

import mmengine
import pytest
import yaml
from mmengine.config import Config
from mmengine.fileio import dump, load

from mmesbnn.analysis import InputError, load_config

PLAIN = 'model: {type: BNext, sizes: !!python/tuple [1, 2]}\n'


@pytest.mark.parametrize(
    'value',
    [
        "!!python/object/apply:os.mkdir ['{trace}']",
        "!!python/object/new:os.mkdir ['{trace}']",
        '!!python/name:os.system',
        '!!python/module:os',
        "!!python/object/apply:builtins.open ['{trace}', 'w']",
        '!unknown 3',
    ],
)
@pytest.mark.parametrize('ending', ['yaml', 'yml'])
@pytest.mark.parametrize('base', [None, 'yaml', 'py', 'json'])
def test_tags_are_refused(value, ending, base, tmp_path):
    trace, config = tmp_path / 'trace', tmp_path / f'evil.{ending}'
    config.write_text(PLAIN + f'x: {value.format(trace=trace)}\n')
    if base:  # the user's file is another one
        text = {
            'yaml': f'_base_: [./evil.{ending}]\n',
            'py': f"_base_ = ['./evil.{ending}']\n",
            'json': f'{{"_base_": "./evil.{ending}"}}',
        }
        config = tmp_path / f'config.{base}'
        config.write_text(text[base])
    with pytest.raises(InputError, match=r'holds the tag !.* could run code') as caught:
        load_config(config)
    assert str(caught.value).startswith(f'cannot read the config {config}: ')
    assert not trace.exists()


def test_what_mmengine_writes_is_read(tmp_path):
    path = tmp_path / 'config.yaml'
    Config(dict(model=dict(type='BNext', sizes=(1, (2, 3))), a=[None, 1e-3])).dump(path)
    assert 'python/tuple' in path.read_text()
    cfg = load_config(path)
    assert cfg.model.sizes == (1, (2, 3))
    assert cfg.a == [None, 1e-3]


def test_a_file_is_parsed_once(tmp_path, monkeypatch):
    path, read = tmp_path / 'config.yaml', []
    path.write_text(PLAIN + 'a: &a [{b: 1}]\nc: *a\n')
    parse = yaml.load
    monkeypatch.setattr(yaml, 'load', lambda *a, **k: read.append(a) or parse(*a, **k))
    cfg = load_config(path, {'a.0.b': 2})
    assert len(read) == 1  # a file of 20,000 numbers takes seconds each time
    assert (cfg.a[0].b, cfg.c[0].b) == (2, 1)


def test_mmengine_stays_as_it_is(tmp_path):
    path = tmp_path / 'config.yml'
    path.write_text(PLAIN)
    before = dict(mmengine.fileio.handlers.file_handlers)
    load_config(path)
    assert mmengine.fileio.handlers.file_handlers == before
    dump({'a': (1,)}, tmp_path / 'x.yaml')
    assert load(tmp_path / 'x.yaml') == {'a': (1,)}


@pytest.mark.parametrize('text', ['[' * 5000, '&a [*a]', 'model: &a {a: *a}', '3'])
def test_damaged_files_end_in_a_sentence(text, tmp_path):
    path = tmp_path / 'config.yaml'
    path.write_text(text)
    with pytest.raises(InputError, match='config'):
        load_config(path)


def test_aliases_still_work(tmp_path):
    path = tmp_path / 'config.yaml'
    path.write_text('a: &a {b: 1}\nmodel: {type: X, c: *a}\n')
    assert load_config(path).model.c == yaml.safe_load('{b: 1}')


def bomb(levels):
    """Ten times as many values a level, in a file of a few lines."""
    lines = ['a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]']
    lines += [f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]' for i in range(1, levels)]
    return PLAIN + '\n'.join(lines)


def chain(length):
    """Lists in lists, deeper than any file is that writes them out."""
    lines = [f'a{i}: &a{i} [*a{i - 1}]' for i in range(1, length)]
    return PLAIN + '\n'.join(['a0: &a0 [1]', *lines])


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        (bomb(9), 'more than 100000 values'),
        (chain(440), 'more than 1000000 copies'),
        (PLAIN + 'a: &a [*a]', 'contains itself'),
        (PLAIN + 'a: &a {<<: *a}', 'contains itself'),
    ],
)
def test_aliases_that_fill_the_memory_are_refused(text, told, tmp_path):
    path = tmp_path / 'config.yaml'
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        load_config(path)


def nested(depth, count):
    """A list of numbers in many dicts."""
    value = list(range(count))
    for _ in range(depth):
        value = {'a': value}
    return value


@pytest.mark.parametrize(
    ('value', 'told'),
    [([{}] * 100_001, 'more than 100000 values'), (nested(400, 5000), 'more than 1000000 copies')],
)
def test_json_of_too_many_or_too_deep_values_is_refused(value, told, tmp_path):
    path = tmp_path / 'config.json'
    path.write_text(json.dumps({'model': {'type': 'X'}, 'x': value}))
    with pytest.raises(InputError, match=f'cannot read the config {path}: .*{told}'):
        load_config(path)
    based = tmp_path / 'based.json'
    based.write_text('{"_base_": "config.json"}')
    with pytest.raises(InputError, match=f'cannot read the config {based}: .*{told}'):
        load_config(based)


def test_long_json_is_read(tmp_path):
    path = tmp_path / 'config.json'
    path.write_text(json.dumps({'model': {'type': 'X'}, 'x': nested(30, 20_000)}))
    assert load_config(path).x.a.a.a.keys() == {'a'}


def test_a_few_aliases_are_read(tmp_path):
    path = tmp_path / 'config.yaml'
    path.write_text(bomb(2) + '\nb: &b {x: 1}\nc: {<<: *b, y: 2}\n')
    cfg = load_config(path)
    assert cfg.a1 == [[1] * 10] * 10
    assert cfg.c == dict(x=1, y=2)
