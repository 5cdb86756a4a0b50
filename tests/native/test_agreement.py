"""Every instruction set computes what portable code does, on this machine and on aarch64."""

import importlib.util
import re
import sys

import pytest

from tests.native.building import build, first_of, run, write_network

# GCC 12 warns of its own headers for AVX-512.
WARNINGS = ['-Wall', '-Wextra', '-Werror', '-Wno-uninitialized', '-Wno-maybe-uninitialized']


def host():
    """Return the compiler of this machine, and the command before a program's name."""
    compiler = first_of('c++', 'g++', 'clang++')
    if compiler is None:
        pytest.skip('there is no C++ compiler')
    return [compiler], []


def aarch64():
    """Return a cross-compiler for 64-bit ARM, and an emulator."""
    emulator = first_of('qemu-aarch64', 'qemu-aarch64-static')
    if emulator is None:
        pytest.skip('there is no qemu-aarch64 (Debian: qemu-user)')
    gnu = first_of('aarch64-linux-gnu-g++')
    if gnu is not None:
        return [gnu, '-static'], [emulator]
    if importlib.util.find_spec('ziglang') is None:
        pytest.skip('there is no cross-compiler (Debian: g++-aarch64-linux-gnu; PyPI: ziglang)')
    zig = [sys.executable, '-m', 'ziglang', 'c++', '-target', 'aarch64-linux-musl', '-static']
    return zig, [emulator]


@pytest.mark.parametrize(('target', 'needed'), [(host, 'portable'), (aarch64, 'neon')])
def test_instruction_sets_agree(target, needed, tmp_path):
    pytest.importorskip('openvino')
    compiler, emulator = target()
    program = build(compiler, 'agreement', tmp_path, '-O2', *WARNINGS)
    network = write_network(tmp_path / 'network')
    done = run(*emulator, program, 1, 1000, network)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    rounds = re.findall(r'(\w+): 1000 rounds', done.stdout)
    convolutions = re.findall(r'(\w+): 100 convolutions', done.stdout)
    networks = re.findall(r'(\w+): a network', done.stdout)
    assert [*rounds, 'portable'] == convolutions == networks
    assert needed in networks
