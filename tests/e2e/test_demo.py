"""Threads of the demos, and of the tools that they start, sleep while they wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'

HERE = 'import torch'
STARTED = """
import subprocess, sys
done = subprocess.run(
    [sys.executable, '-c', 'import torch'],
    env={**demo.quiet_environment(), 'OMP_DISPLAY_ENV': 'VERBOSE'},
    stderr=subprocess.PIPE, text=True)
print(done.stderr)
"""


def settings(code, policy):
    """Return the settings that the OpenMP library prints after a demo has imported torch."""
    env = {k: v for k, v in os.environ.items() if not k.startswith('OMP_')}
    if policy:  # the user's own setting
        env['OMP_WAIT_POLICY'] = policy
    display = {'OMP_DISPLAY_ENV': 'VERBOSE'} if code is HERE else {}
    done = subprocess.run(
        [sys.executable, '-c', f'import demo\n{code}'],
        capture_output=True,
        text=True,
        cwd=TOOLS,
        env={**env, **display, 'PYTHONPATH': os.pathsep.join([str(TOOLS.parent), str(TOOLS)])},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize('policy', [None, 'ACTIVE'])
@pytest.mark.parametrize('code', [HERE, STARTED], ids=['the demo', 'its tools'])
def test_threads_sleep_while_they_wait(code, policy):
    # the library's value of the time that a thread spins before it sleeps
    said = settings(code, policy)
    assert 'GOMP_SPINCOUNT' in said
    assert ("GOMP_SPINCOUNT = '0'" in said) == (policy is None)
