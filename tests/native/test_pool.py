"""Tests of the threads that share the work of a call."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mmesbnn import native

pytestmark = [
    pytest.mark.skipif(not native.available(), reason='the compiled library is not there'),
    pytest.mark.skipif(not sys.platform.startswith('linux'), reason='only Linux has this'),
]

# Runs on the cores of its arguments, and prints those of itself and of the pool's only thread.
SCRIPT = """
import os, sys
import numpy as np
from mmesbnn import native

os.sched_setaffinity(0, map(int, sys.argv[1:]))
x = np.random.default_rng(0).standard_normal((1, 64, 64, 64)).astype(np.float32)
alone = native.pack_signs(x)
before = set(os.listdir('/proc/self/task'))
shared = native.pack_signs(x, threads=2)
(thread,) = set(os.listdir('/proc/self/task')) - before
assert np.array_equal(alone.words, shared.words)
print(*os.sched_getaffinity(0))
print(*os.sched_getaffinity(int(thread)))
"""


def cores_of_both(cores):
    command = [sys.executable, '-c', SCRIPT, *map(str, cores)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [{int(core) for core in line.split()} for line in lines]


def test_a_thread_keeps_off_its_callers_core():
    cores = sorted(os.sched_getaffinity(0))[:4]
    if len(cores) == 1:
        pytest.skip('this process has only one core')
    caller, thread = cores_of_both(cores)
    assert caller == set(cores)
    assert thread < caller
    assert len(caller - thread) == 1


def test_a_process_with_one_core_shares_it():
    core = min(os.sched_getaffinity(0))
    assert cores_of_both([core]) == [{core}, {core}]


# Computes with more threads than its limit of memory leaves room for; prints how many it got.
LIMITED = """
import os, resource
import numpy as np
from mmesbnn import native

x = np.random.default_rng(0).standard_normal((1, 64, 64, 64)).astype(np.float32)
alone = native.pack_signs(x)
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
before = len(os.listdir('/proc/self/task'))
resource.setrlimit(resource.RLIMIT_AS, (used + 2**22, used + 2**22))
shared = native.pack_signs(x, threads=64)
assert np.array_equal(alone.words, shared.words)
print(len(os.listdir('/proc/self/task')) - before)
"""


def test_threads_that_cannot_start_are_not_needed():
    command = [sys.executable, '-c', LIMITED]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(found.stdout) < 63


def test_no_number_of_threads_is_too_large():
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 64)).astype(np.float32)
    shared = native.pack_signs(x, threads=2**31 - 1)
    assert np.array_equal(native.pack_signs(x).words, shared.words)
