"""All networks share one Core; deleting a Core would remove the signal stack of others."""

import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip('openvino')

from tests.deploy import exports
from tests.deploy.packed.nets import ROOT

SIGNAL = """
import faulthandler, os, signal, sys
from mmesbnn.deploy import Runner

faulthandler.enable()  # as pytest does: it has a signal stack
first, second = (Runner(sys.argv[1], threads=1) for _ in range(2))
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: None)
os.kill(os.getpid(), signal.SIGUSR1)
print('survived')
"""


@pytest.mark.skipif(not hasattr(signal, 'SIGUSR1'), reason='no such signal here')
def test_a_signal_after_runners_have_gone(tmp_path):
    exports.write_classifier(tmp_path)
    done = subprocess.run(
        [sys.executable, '-c', SIGNAL, tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (0, 'survived\n'), done.stderr
