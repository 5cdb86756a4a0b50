"""Randomly changed manifests are refused in one sentence or work like the original."""

import copy
import json
import resource
import shutil
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest

from mmesbnn.deploy import ExportError, ImageError, Runner
from mmesbnn.deploy.runtime.manifest import NAME
from mmesbnn.errors import LONGEST_MESSAGE
from tests.real_data import photograph

pytest.importorskip('openvino')

from tests.deploy import exports

#: Values that replace entries.
STRANGE = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    1000,
    2**31,
    -(2**63),
    10**30,
    10**300,
    0.0,
    0.5,
    1e-300,
    1e300,
    -1.5,
    '',
    'x',
    '../../etc/passwd',
    '/dev/zero',
    'a' * 10**5,
    '\x1b[2J',
    '\ud800',
    'cv2',
    'resize',
    'nearest',
    'detection',
    'super_resolution',
    [],
    {},
    [[]],
    [0],
    [-1],
    [1] * 1000,
    [None],
    ['x'] * 3,
    {'type': 'pad'},
    {'x': {'y': []}},
]
#: Texts that replace entries in the file itself.
TEXTS = [
    'NaN',
    'Infinity',
    '-Infinity',
    '1e999',
    '-1e999',
    '9' * 5000,
    '[' * 5000,
    '{"a":' * 3000,
    '"\\ud800"',
    '"\\u0000"',
    '\x00',
    '0x10',
    "'x'",
    '1,',
    '',
]
#: Seconds and bytes that an attempt may take.
SECONDS, BYTES = 20, 2_000_000_000


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('exports')
    exports.write_classifier(root / 'classifier')
    exports.write_detector(root / 'detector')
    exports.write_denoiser(root / 'denoiser', size=16)
    return [root / name for name in ('classifier', 'detector', 'denoiser')]


def places(value, path=()):
    """Yield the paths of all entries of nested dicts and lists; few of long lists."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 4)):
            yield from places(value[i], (*path, i))


def strange(rng):
    return copy.deepcopy(rng.choice(STRANGE))


def mutated(content, rng):
    """Return the content with a few entries deleted, doubled, exchanged or moved."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        path = rng.choice([path for path in places(content) if path])
        place = content
        for key in path[:-1]:
            place = place[key]
        old, kind = place[path[-1]], rng.randrange(6)
        if kind == 0:
            del place[path[-1]]
        elif kind == 1 and isinstance(old, (int, float)):
            factor = rng.choice([-1, 0, 2, 1e-9, 1e9, 1e30, 0.1])
            place[path[-1]] = rng.choice([old * factor, old + 1, old - 1, str(old)])
        elif kind == 2 and isinstance(old, list):
            place[path[-1]] = rng.choice([old[:-1], old * 2, old[::-1], old * 10**4])
        elif kind == 3 and isinstance(old, dict):
            old[rng.choice(['x', 'size', 'type', 'final', ''])] = copy.deepcopy(rng.choice(STRANGE))
        elif kind == 4:
            place[path[-1]] = [old] if rng.random() < 0.5 else {'value': old}
        else:
            place[path[-1]] = strange(rng)
    return content


def as_text(content, rng):
    """Write the content as text, sometimes cut or with invalid JSON."""
    kind = rng.randrange(8)
    if kind == 0:
        paths = [path for path in places(content) if path]
        content, path = copy.deepcopy(content), rng.choice(paths)
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = '@@'
        return json.dumps(content).replace('"@@"', rng.choice(TEXTS))
    text = json.dumps(content)
    if kind == 1:
        where = rng.randrange(len(text))
        return text[:where] + rng.choice(['', ' ', '"', '}', '\\', '\x00', '[' * 99])
    return json.dumps(mutated(content, rng))


def too_long(number, frame):
    raise TimeoutError(f'more than {SECONDS} s')


def use(folder, images, verify):
    """Run an export; return its results or the message that refuses it."""
    try:
        runner = Runner(folder, threads=1, verify=verify)
        if runner.task == 'super_resolution':
            return [runner.upscale(images[0][:9, :8], seed=0, steps=2)]
        return [*runner(images), *runner.stream(images)]
    except (ExportError, ImageError) as error:
        return str(error)


@pytest.fixture
def bounded():
    """Limit the time and memory of every attempt."""
    before = signal.signal(signal.SIGALRM, too_long)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.signal(signal.SIGALRM, before)


def test_manifests(campaign, folders, bounded, tmp_path):
    images = [np.ascontiguousarray(photograph(i)[:40, :60]) for i in range(2)]
    whole = [json.loads((folder / NAME).read_text()) for folder in folders]
    for rng in campaign.draws(least=60):
        source = rng.randrange(len(folders))
        folder = shutil.copytree(folders[source], tmp_path / 'export')
        text = as_text(whole[source], rng)
        (folder / NAME).write_text(text, errors='surrogatepass')
        with campaign.attempt(folders[source].name), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            signal.alarm(SECONDS)
            try:
                found = use(folder, images, verify=rng.random() < 0.5)
            finally:
                signal.alarm(0)
            if isinstance(found, str):
                assert 0 < len(found) <= LONGEST_MESSAGE + len(str(folder)), found
                assert '\n' not in found and found.isprintable(), found
            for result in found:
                json.dumps(result, default=lambda value: value.tolist())
        shutil.rmtree(folder)
