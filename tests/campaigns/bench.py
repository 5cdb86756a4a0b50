"""The tools, their input files, and a server that starts them quickly."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image

from tests.analysis.digits import build, set_temperature, write_project
from tests.engine import sr_runs
from tests.reference.published_bnext import Network, random_state

ROOT = Path(__file__).resolve().parents[2]
OLD = b'what was there before'
#: Seconds after which a tool is killed, for it waits for something.
PATIENCE = 120

#: By name: the tool, its arguments, and True if it writes a folder.
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
#: Tools that replace an old folder; the others refuse a folder with files.
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
        timer = threading.Timer(PATIENCE, os.kill, (pid, signal.SIGKILL))
        timer.start()
        if stop:
            time.sleep(stop[1])
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(pid, stop[0])
        status = int(self.process.stdout.readline())
        timer.cancel()
        return status, *(Path(request[k]).read_bytes() for k in ('out', 'err'))

    def close(self):
        # not by the end of its input: a process that a test forked can hold the pipe open
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
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


def assert_one_line(tool, status, err, allowed):
    text = err.decode(errors='surrogateescape')
    assert 'Traceback' not in text and 'Exception ignored' not in text, text[-1500:]
    assert status in allowed, (tool, status, text[-500:])
    lines = [x for x in text.splitlines() if x.startswith(f'{tool}: ')]
    assert len(lines) == (status != 0), text[-1500:]
