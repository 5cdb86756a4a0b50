"""Tools on a full disk, with odd names, stopped early or run twice."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from tests.analysis.digits import build, set_temperature, write_project
from tests.engine import sr_runs
from tests.reference.published_bnext import Network, random_state

for name in ('mmdet', 'mmpretrain', 'openvino', 'onnxruntime', 'diffusers', 'skimage'):
    pytest.importorskip(name)
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
OLD = b'what was there before'
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
WORD = {signal.SIGINT: 'Ctrl-C', signal.SIGTERM: 'SIGTERM'}

#: By name: the tool, its arguments, and whether it writes a folder.
TOOLS = {
    'digits': ('make_digits.py', ['{out}'], True),
    'mini_voc': (
        'make_mini_voc.py',
        ['{out}', '--counts', '3', '1', '1', '--size', '48', '48'],
        True,
    ),
    'pack': ('pack_checkpoint.py', ['{in}/hard.pth', '{out}', '--config', '{cfg}'], False),
    'count': ('count_ops.py', ['{cfg}', '--json', '{out}'], False),
    'convert': ('convert_checkpoint.py', ['{in}/published.pth', '{out}'], False),
    'onnx': ('export_onnx.py', ['{packed}', '{out}', '--images', '1'], False),
    'export': ('export.py', ['{packed}', '--out', '{out}', '--images', '1'], True),
    'infer': ('infer.py', ['{export}', '{image}', '--json', '{out}'], False),
    'draw': ('infer.py', ['{export}', '{image}', '--out', '{above}'], False),
    'upscale': (
        'upscale.py',
        ['{image}', '--model', '{pipeline}', '--steps', '1', '--out', '{above}'],
        False,
    ),
    'pipeline': ('test_sr.py', ['{sr}', '{in}/sr.pth', '--no-test', '--export', '{out}'], True),
}
#: Results whose names the tool chooses.
CHOSEN = {'draw': 'image.png', 'upscale': 'image_x4.png'}
#: A former result that these replace; the others leave a filled folder alone.
REPLACES = {'export', 'pipeline'}


class Server:
    """Start tools and return their results."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'tests.campaigns.tool_server'],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'},
        )
        self.folder = folder

    def wait_until_ready(self):
        assert self.process.stdout.readline() == 'ready\n'

    def run(self, tool, args, cwd, stop=None, **options):
        """Return status, output and errors; ``stop``: a signal and the seconds before it."""
        request = {
            'tool': tool,
            'args': args,
            'cwd': str(cwd),
            'out': str(self.folder / 'out.txt'),
            'err': str(self.folder / 'err.txt'),
            **options,
        }
        print(json.dumps(request), file=self.process.stdin, flush=True)
        pid = int(self.process.stdout.readline())
        if stop:
            time.sleep(stop[1])
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(pid, stop[0])
        status = int(self.process.stdout.readline())
        return status, *(Path(request[k]).read_bytes() for k in ('out', 'err'))

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def write_inputs(folder):
    """Write the input files of the tools."""
    config = write_project(folder)
    model = set_temperature(build(config), 0.0)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, folder / 'hard.pth')
    state = random_state(Network((16, 32), tau=2, kind='rep_ops'), 5e-8)
    torch.save({'state_dict': state}, folder / 'published.pth')
    cfg = sr_runs.config('data', 'runs')
    Config(cfg).dump(folder / 'sr.py')
    from mmengine.registry import MODELS, DefaultScope

    with DefaultScope.overwrite_default_scope('mmengine'):
        sr = MODELS.build(cfg['model'])
    torch.save({'state_dict': sr.state_dict(), 'meta': {}}, folder / 'sr.pth')
    image = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / 'image.png')


def content(path):
    """Return files and sizes, which are enough to recognise a complete result."""
    if path.is_dir():
        files = sorted(p for p in path.rglob('*') if p.is_file())
        return {str(p.relative_to(path)): p.stat().st_size for p in files}
    return path.stat().st_size if path.exists() else None


class Bench:
    """The tools, their inputs, and their outputs when nothing goes wrong."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.values = {
            'in': str(folder),
            'cfg': str(folder / 'config.py'),
            'sr': str(folder / 'sr.py'),
            'image': str(folder / 'image.png'),
            **{
                k: str(folder / 'made' / name)
                for k, name in (
                    ('packed', 'pack.safetensors'),
                    ('export', 'export'),
                    ('pipeline', 'pipeline'),
                )
            },
        }
        self.whole, self.seconds = {}, {}
        (folder / 'made').mkdir()
        for name in ('pack', 'export', 'pipeline'):
            self.learn(name)

    def learn(self, name):
        """Run a tool without disturbance and keep its result."""
        if name in self.whole:
            return
        suffix = '.safetensors' if name == 'pack' else ''
        out = self.folder / 'made' / f'{name}{suffix}'
        began = time.monotonic()
        status, _, err = self.run(name, out)
        assert status == 0, (name, err)
        self.seconds[name] = time.monotonic() - began
        self.whole[name] = content(self.result(name, out))

    def result(self, name, out):
        return out.parent / CHOSEN.get(name, out.name)

    def run(self, name, out, **options):
        tool, args, _ = TOOLS[name]
        values = {**self.values, 'out': str(out), 'above': str(out.parent)}
        args = [arg.format(**values) for arg in args]
        return self.server.run(tool, args, self.folder, **options)

    def prepare(self, name, folder, old):
        """Return the path of the result, with or without an old result there."""
        self.learn(name)
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / ('x.safetensors' if name == 'pack' else 'x')
        target = self.result(name, out)
        if old and TOOLS[name][2]:
            target.mkdir()
            for file in ('manifest.json', 'model_index.json'):
                if (name == 'export') == (file == 'manifest.json'):
                    (target / file).write_bytes(OLD)
        elif old:
            target.write_bytes(OLD)
        return out, target


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    server = Server(folder)
    try:
        write_inputs(folder)
        server.wait_until_ready()
        yield Bench(server, folder)
    finally:
        server.close()


def assert_one_line(name, status, err, allowed):
    text = err.decode(errors='surrogateescape')
    assert 'Traceback' not in text and 'Exception ignored' not in text, text[-1500:]
    assert status in allowed, (name, status, text[-500:])
    lines = [x for x in text.splitlines() if x.startswith(f'{TOOLS[name][0]}: ')]
    assert len(lines) == (status != 0), text[-1500:]


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
    assert_one_line(name, status, err, allowed)
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
        # what is printed goes to a file, too
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
                    assert_one_line(name, status, err, {0, 2})
                    if status:
                        assert b'Another process has written' in err
                assert_nothing_half(out.parent)
                assert content(target) == bench.whole[name]
