"""The C interface and its threads under sanitizers of memory, undefined behaviour and races."""

import re

import pytest

from mmesbnn.deploy.runtime.program import Program
from tests.deploy.runtime.test_program import content, data
from tests.native.building import build, first_of, run, write, write_network

SECONDS = 15


def sanitized(name, sanitizers, folder, **options):
    """Build a program with sanitizers, or skip the test with the reason."""
    compiler = first_of('c++', 'g++', 'clang++')
    if compiler is None:
        pytest.skip('there is no C++ compiler')
    flags = ['-O1', '-w', '-fno-sanitize-recover=all', f'-fsanitize={sanitizers}']
    (folder / 'empty.cpp').write_text('int main() {}')
    tried = run(compiler, *flags, folder / 'empty.cpp', '-o', folder / 'empty')
    if tried.returncode or run(folder / 'empty').returncode:
        pytest.skip(f'{compiler} has no {sanitizers} sanitizers that run here')
    return build([compiler], name, folder, *flags, **options)


@pytest.fixture(scope='module')
def fuzz(tmp_path_factory):
    return sanitized('fuzz', 'address,undefined', tmp_path_factory.mktemp('fuzz'))


def test_threads_that_share_work_do_each_part_once_and_have_no_race(tmp_path):
    done = run(sanitized('pool', 'thread', tmp_path, of='pool'), 3000, seconds=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert int(done.stdout) > 100  # by others than the first thread


def test_nothing_is_read_or_written_beside_what_is_given(fuzz, tmp_path):
    pytest.importorskip('openvino')
    programs = [
        write(tmp_path / 'hand', Program.from_dict(content()).code(), data()),
        write_network(tmp_path / 'network'),
    ]
    done = run(fuzz, SECONDS, *programs, seconds=SECONDS * 10 + 60)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    calls, runs, convolutions, norms, pools, crosses = map(int, re.findall(r'\d+', done.stdout))
    assert calls > 100
    assert runs > calls / 20
    assert convolutions > calls / 5
    assert norms > calls / 10
    assert pools > calls / 10
    assert crosses > calls / 10
