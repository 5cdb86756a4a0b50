"""Threads of the demos and of their tools sleep while they wait; demos name what is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.analysis.digits import run_tool

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


@pytest.mark.parametrize(
    ('tool', 'package', 'extra'),
    [
        ('demo.py', 'openvino', 'deploy'),
        ('demo.py', 'mmpretrain', 'cls'),
        ('demo_det.py', 'mmdet', 'det'),
        ('demo_sr.py', 'diffusers', 'sr'),
    ],
)
def test_a_missing_package_is_named_before_the_work(
    tool, package, extra, tmp_path, monkeypatch, capsys
):
    def begin(self, *args, **kwargs):
        raise AssertionError('the demo begins its work')

    packages = ('mmpretrain', 'mmpretrain.models', 'mmdet', 'mmcv.ops', 'openvino', 'diffusers')
    for name in packages:
        monkeypatch.setitem(sys.modules, name, type(sys)(name))  # fast
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, 'mkdir', begin)
    assert run_tool(tool, '--work-dir', tmp_path / 'work', monkeypatch=monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'{tool}: tools/{tool} needs {package}, which')
    assert f"pip install 'mmesbnn[{extra}]'" in line
