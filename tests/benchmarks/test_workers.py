"""Processes that train end with their parent, however it ends."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='needs signals')

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import os, sys, time
from es.workers import submit, workers

def prepare():
    pass

def work():
    # one piece: unbuffered, print would write the end of the line apart
    os.write(1, f'{os.getpid()}\\n'.encode())
    time.sleep(120)

def main():
    with workers(2, prepare) as pool:
        futures = [submit(pool, work) for _ in range(2)]
        futures[0].result()

if __name__ == '__main__':
    class Block:  # torch and mmengine are not needed, and slow
        def find_spec(self, name, path=None, target=None):
            if name.partition('.')[0] in ('torch', 'mmengine'):
                raise ModuleNotFoundError(name, name=name)

    sys.meta_path.insert(0, Block())
    from mmesbnn import cli

    cli.run(main)
"""


@pytest.fixture
def started(tmp_path):
    """Yield a process and the numbers of its two workers."""
    (tmp_path / 'script.py').write_text(SCRIPT)
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tools' / 'benchmarks')])
    process = subprocess.Popen(
        [sys.executable, tmp_path / 'script.py'],
        env={**os.environ, 'PYTHONPATH': path},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    yield process, [int(process.stdout.readline()) for _ in range(2)]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def ended(process):
    """Return status and errors; workers hold the pipe of the errors until they end."""
    _, err = process.communicate(timeout=60)  # their work, which is not waited for, takes longer
    return process.returncode, err


def test_workers_end_when_their_parent_is_killed(started):
    process, _ = started
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL


@pytest.mark.parametrize('send', [os.kill, os.killpg])
@pytest.mark.parametrize(
    ('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_all_with_one_line(started, send, number, status):
    process, _ = started
    send(process.pid, number)
    name = 'Ctrl-C' if number == signal.SIGINT else number.name
    assert ended(process) == (status, f'script.py: stopped by {name}\n')


def test_a_worker_that_is_killed_is_told_in_one_line(started):
    process, pids = started
    # Python watches the first one from the start, the second one after its next result
    os.kill(min(pids), signal.SIGKILL)
    line = 'script.py: a process that trains was killed: is the memory too small for --jobs?\n'
    assert ended(process) == (2, line)
