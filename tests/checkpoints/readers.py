"""Keep a worker that reads files, and start a new one after a crash."""

import json
import os
import selectors
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Reader:
    """A process that reads files; use it as a context.

    Args:
        function: What reads a path, by its dotted name.
        spare: How many bytes the process may take beyond those it starts with.
        seconds: How long one file may take.
    """

    def __init__(self, function, spare=2**30, seconds=20):
        self.function, self.spare, self.seconds = function, spare, seconds
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.stdin.close()
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def _start(self):
        paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'tests.checkpoints.worker', self.function, str(self.spare)],
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        while (line := self.process.stdout.readline()) != 'ready\n':
            assert line, 'the worker did not start'

    def __call__(self, path):
        """Return the answer for one file, ``bad`` if the process died or took too long."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        self.process.stdin.write(f'{path}\n')
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(self.seconds):
                self.process.kill()
                self.process.wait()
                return {'bad': f'took more than {self.seconds} seconds'}
        line = self.process.stdout.readline()
        if not line:
            return {'bad': f'the process died with status {self.process.wait()}'}
        return json.loads(line)
