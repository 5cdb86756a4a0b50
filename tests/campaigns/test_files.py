"""Tools on a full disk, with odd names, stopped early or run twice."""

import contextlib
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.campaigns.bench import REPLACES, TOOLS, Bench, Server, assert_one_line, content

for name in ('mmdet', 'mmpretrain', 'openvino', 'onnxruntime', 'diffusers', 'skimage'):
    pytest.importorskip(name)
pytestmark = pytest.mark.slow

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
WORD = {signal.SIGINT: 'Ctrl-C', signal.SIGTERM: 'SIGTERM'}


def assert_nothing_half(folder):
    left = [p.name for p in folder.rglob('*') if '.part' in p.name]
    assert not left, left


def assert_old_or_whole(bench, name, target, before, status):
    after = content(target)
    if status == 0:
        assert after == bench.whole[name], (after, bench.whole[name])
    else:
        assert after in (before, bench.whole[name]), (before, after)


def check(bench, name, folder, target, before, status, err, allowed):
    assert_one_line(TOOLS[name][0], status, err, allowed)
    assert_nothing_half(folder)
    assert_old_or_whole(bench, name, target, before, status)


def draw(rng):
    """Draw a tool and the presence of an old result."""
    name = rng.choice(list(TOOLS))
    folder = TOOLS[name][2]
    return name, rng.random() < 0.5 and (not folder or name in REPLACES)


def size_of(whole):
    return max(whole.values()) if isinstance(whole, dict) else whole


def test_limits_of_the_size(campaign, bench, tmp_path):
    for i, rng in enumerate(campaign.draws(least=3)):
        name, old = draw(rng)
        out, target = bench.prepare(name, tmp_path / f'{i}', old)
        before = content(target)
        limit = rng.choice([0, rng.randrange(size_of(bench.whole[name]))])
        # the printed text also goes to a file
        limit = max(limit, 4096)
        status, _, err = bench.run(name, out, limit=limit)
        with campaign.attempt(f'a limit of the size, {name}'):
            allowed = {2} if limit < size_of(bench.whole[name]) else {0, 2}
            check(bench, name, out.parent, target, before, status, err, allowed)


@contextlib.contextmanager
def mounted(folder, options):
    folder.mkdir()
    done = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', options, 'none', str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f'cannot mount here: {done.stderr.decode().strip()}')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)


def test_full_disks(campaign, bench, tmp_path):
    for i, rng in enumerate(campaign.draws(least=2)):
        name, old = draw(rng)
        bench.learn(name)
        whole = bench.whole[name]
        total = sum(whole.values()) if isinstance(whole, dict) else whole
        pages = 3 + rng.randrange(max(total // 4096, 1))
        with mounted(tmp_path / f'{i}', f'size={4 * pages}k') as folder:
            out, target = bench.prepare(name, folder / 'a', old)
            before = content(target)
            status, _, err = bench.run(name, out)
            with campaign.attempt(f'a full disk, {name}'):
                check(bench, name, folder, target, before, status, err, {0, 2})


def test_disks_to_read_only(campaign, bench, tmp_path):
    for i, rng in enumerate(campaign.draws(least=1)):
        name, old = draw(rng)
        with mounted(tmp_path / f'{i}', 'size=1m') as folder:
            out, target = bench.prepare(name, folder / 'a', old)
            before = content(target)
            remount = ['mount', '-o', 'remount,ro', str(folder)]
            subprocess.run(remount, check=True)
            status, _, err = bench.run(name, out)
            with campaign.attempt(f'a disk to read only, {name}'):
                check(bench, name, folder, target, before, status, err, {2})


def test_signals_at_any_moment(campaign, bench, tmp_path):
    for i, rng in enumerate(campaign.draws(least=5)):
        name, old = draw(rng)
        out, target = bench.prepare(name, tmp_path / f'{i}', old)
        before = content(target)
        number = rng.choice(list(STATUS))
        moment = rng.random() * 1.1 * bench.seconds[name]
        status, _, err = bench.run(name, out, stop=(number, moment))
        with campaign.attempt(f'{WORD[number]}, {name}'):
            check(bench, name, out.parent, target, before, status, err, {STATUS[number], 0})
            if status:
                line = f'{TOOLS[name][0]}: stopped by {WORD[number]}\n'
                assert err.decode().endswith(line), err


def test_names_that_are_no_text(campaign, bench, tmp_path):
    for i, rng in enumerate(campaign.draws(least=3)):
        name, old = draw(rng)
        above = os.fsdecode(rng.choice([b'caf\xe9', 'ä 二'.encode(), b'\xff\x1b[31m']))
        out, target = bench.prepare(name, tmp_path / f'{i}' / above, old)
        before = content(target)
        encoding = rng.choice(['ascii', 'utf-8'])
        status, _, err = bench.run(name, out, encoding=encoding)
        with campaign.attempt(f'a name that is no text, {name}'):
            check(bench, name, tmp_path / f'{i}', target, before, status, err, {0, 2})
            assert b'\x1b' not in err
            if '\udcff' not in above and '\udce9' not in above:
                assert status == 0


def test_two_at_once(campaign, bench, tmp_path):
    other = Server(bench.folder / 'second')
    other.folder.mkdir(exist_ok=True)
    other.wait_until_ready()
    twin = object.__new__(Bench)
    twin.__dict__.update(bench.__dict__, server=other)
    with contextlib.closing(other), ThreadPoolExecutor(2) as pool:
        for i, rng in enumerate(campaign.draws(least=1)):
            name, old = draw(rng)
            out, target = bench.prepare(name, tmp_path / f'{i}', old)
            runs = [pool.submit(each.run, name, out) for each in (bench, twin)]
            with campaign.attempt(f'two at once, {name}'):
                for run in runs:
                    status, _, err = run.result()
                    assert_one_line(TOOLS[name][0], status, err, {0, 2})
                    if status:
                        assert b'Another process has written' in err
                assert_nothing_half(out.parent)
                assert content(target) == bench.whole[name]
