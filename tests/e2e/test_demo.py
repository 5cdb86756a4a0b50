"""The environment and the processes of the demos' tools."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'demo.py'


@pytest.mark.parametrize('policy', [None, 'ACTIVE'])
def test_threads_of_tools_sleep_while_they_wait(policy, monkeypatch):
    monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
    if policy:  # the user's own wish
        monkeypatch.setenv('OMP_WAIT_POLICY', policy)
    environment = runpy.run_path(str(TOOL))['quiet_environment']()
    done = subprocess.run(
        [sys.executable, '-c', 'import torch'],
        capture_output=True,
        text=True,
        env={**environment, 'OMP_DISPLAY_ENV': 'VERBOSE'},
    )
    assert done.returncode == 0, done.stderr
    # as the OpenMP library understood it: how long a thread spins before it sleeps
    assert ("GOMP_SPINCOUNT = '0'" in done.stderr) == (policy is None)
