"""The C interface under AddressSanitizer and UndefinedBehaviorSanitizer."""

import re

import pytest

from mmesbnn.deploy.runtime.program import Program
from tests.deploy.runtime.test_program import content, data
from tests.native.building import build, first_of, run, write, write_network

FLAGS = ['-O1', '-w', '-fno-sanitize-recover=all', '-fsanitize=address,undefined']
SECONDS = 15


@pytest.fixture(scope='module')
def fuzz(tmp_path_factory):
    """Build the program of fuzz.cpp, or skip the test with the reason."""
    compiler = first_of('c++', 'g++', 'clang++')
    if compiler is None:
        pytest.skip('there is no C++ compiler')
    folder = tmp_path_factory.mktemp('fuzz')
    (folder / 'empty.cpp').write_text('int main() {}')
    tried = run(compiler, *FLAGS, folder / 'empty.cpp', '-o', folder / 'empty')
    if tried.returncode or run(folder / 'empty').returncode:
        pytest.skip(f'{compiler} has no sanitizers that run here')
    return build([compiler], 'fuzz', folder, *FLAGS)


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
