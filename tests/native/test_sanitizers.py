"""The C interface under AddressSanitizer and UndefinedBehaviorSanitizer."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mmesbnn.deploy.runtime.program import Program
from tests.deploy.runtime.test_program import content, data

SOURCES = Path(__file__).resolve().parents[2] / 'mmesbnn' / 'native' / 'src'
FLAGS = ['-std=c++17', '-O1', '-w', '-pthread', '-fno-sanitize-recover=all']
SECONDS = 15


def run(*command, seconds=300):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=seconds, check=False
    )


@pytest.fixture(scope='module')
def fuzz(tmp_path_factory):
    """Build the program of fuzz.cpp, or skip the test with the reason."""
    compiler = shutil.which('c++') or shutil.which('g++') or shutil.which('clang++')
    if compiler is None:
        pytest.skip('there is no C++ compiler')
    folder = tmp_path_factory.mktemp('fuzz')
    flags = [*FLAGS, '-fsanitize=address,undefined']
    (folder / 'empty.cpp').write_text('int main() {}')
    tried = run(compiler, *flags, folder / 'empty.cpp', '-o', folder / 'empty')
    if tried.returncode or run(folder / 'empty').returncode:
        pytest.skip(f'{compiler} has no sanitizers that run here')
    sources = [*sorted(SOURCES.glob('*.cpp')), Path(__file__).with_name('fuzz.cpp')]
    built = run(compiler, *flags, *sources, '-o', folder / 'fuzz')
    assert built.returncode == 0, built.stderr[-2000:]
    return folder / 'fuzz'


def write(path, code, values):
    code = np.array(code, np.int64)
    sizes = np.array([len(code), len(values)], np.int64)
    path.write_bytes(sizes.tobytes() + code.tobytes() + values.tobytes())
    return path


def compiled_program():
    """Return a small BNext as numbers and data."""
    import torch

    from tests.deploy.native.test_compiling import classifier, compiled

    program, values = compiled(classifier('bnext tau'), torch.zeros(1, 3, 32, 32))
    return program.code(), values


def test_nothing_is_read_or_written_beside_what_is_given(fuzz, tmp_path):
    pytest.importorskip('openvino')
    programs = [
        write(tmp_path / 'hand', Program.from_dict(content()).code(), data()),
        write(tmp_path / 'network', *compiled_program()),
    ]
    done = run(fuzz, SECONDS, *programs, seconds=SECONDS * 10 + 60)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    calls, runs, convolutions = map(int, re.findall(r'\d+', done.stdout))
    assert calls > 100
    assert runs > calls / 20
    assert convolutions > calls / 5
