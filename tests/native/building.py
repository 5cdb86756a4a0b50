"""Programs of the native library's C++ tests: how they are built, and the networks they run."""

import shutil
import subprocess
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SOURCES = Path(__file__).resolve().parents[2] / 'mmesbnn' / 'native' / 'src'


def run(*command, seconds=900):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=seconds, check=False
    )


def first_of(*names):
    """Return the path of the first command that exists, or None."""
    return next(filter(None, map(shutil.which, names)), None)


def build(compiler, name, folder, *flags, of='*'):
    """Build ``NAME.cpp`` of this folder with sources of the library; return the program."""
    sources = [*sorted(SOURCES.glob(f'{of}.cpp')), HERE / f'{name}.cpp']
    built = run(*compiler, '-std=c++17', '-pthread', *flags, *sources, '-o', folder / name)
    assert built.returncode == 0, built.stderr[:4000]
    return folder / name


def write(path, code, values, *arrays):
    """Write a program's code and data, and arrays, as the C++ tests read them."""
    code = np.array(code, np.int64)
    sizes = np.array([len(code), len(values)], np.int64)
    path.write_bytes(b''.join(array.tobytes() for array in (sizes, code, values, *arrays)))
    return path


def write_network(path):
    """Write a small BNext with images and torch's outputs."""
    import torch

    from tests.deploy.native.test_compiling import classifier, compiled

    model, images = classifier('bnext tau'), torch.randn(5, 3, 32, 32)
    program, values = compiled(model, images)
    with torch.no_grad():
        outputs = model(images)
    sizes = np.array([len(images), images[0].numel(), outputs[0].numel()], np.int64)
    return write(path, program.code(), values, sizes, images.numpy(), outputs.numpy())
