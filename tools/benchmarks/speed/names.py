"""Names of the contenders and of the processor. The module needs the native library, no torch."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from mmesbnn import native
from mmesbnn.optional import require

PUBLISHED, EAGER, COMPILED = 'published style, eager', 'ours, eager', 'torch.compile'
FLOAT, BITS, ONNX = 'OpenVINO fp32', 'OpenVINO 1-bit', 'ONNX Runtime fp32'
NATIVE = 'native 1-bit'

#: Real-valued networks, by their names in mmpretrain.
RIVALS = {'MobileNetV3-Large': 'mobilenet-v3-large_8xb128_in1k', 'ResNet-18': 'resnet18_8xb32_in1k'}
FLOAT_RIVALS = {f'{name}, {FLOAT}': model for name, model in RIVALS.items()}
INT8_RIVALS = {f'{name}, OpenVINO int8': model for name, model in RIVALS.items()}

#: Packages that a contender needs, with the extra that installs them.
NEEDED = {
    ONNX: (('onnx', 'deploy'), ('onnxruntime', 'deploy')),
    **dict.fromkeys(INT8_RIVALS, (('nncf', 'bench'), ('skimage', 'demo'), ('sklearn', 'demo'))),
}


#: Environment in which oneDNN, torch's own kernels and MKL use AVX2 only. They read it when they
#: are first used.
AVX2_ONLY = {
    'ONEDNN_MAX_CPU_ISA': 'AVX2',
    'ATEN_CPU_CAPABILITY': 'avx2',
    'MKL_ENABLE_INSTRUCTIONS': 'AVX2',
}


def check_avx2(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse ``--avx2`` on a processor of another kind."""
    if args.avx2 and platform.machine() not in ('x86_64', 'AMD64'):
        parser.error(f'--avx2: {platform.machine()} has no AVX2')


def use_avx2_only() -> None:
    """Let torch and its libraries use AVX2 only, if they have not computed before."""
    os.environ.update(AVX2_ONLY)


def processor() -> str:
    """Return the name of the processor."""
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def instruction_sets(avx2: bool = False) -> list[str]:
    """Return the instruction sets of the native kernels on this processor, fastest first.

    Args:
        avx2: If true, without AVX-512 and AMX. Default False.
    """
    names = native.instruction_sets() if native.available() else []
    return [name for name in names if not (avx2 and name.startswith(('amx', 'avx512')))]


def native_forms(avx2: bool = False) -> dict[str, str]:
    """Return the native contenders with their instruction sets; the fastest has no suffix."""
    names = instruction_sets(avx2)
    return {f'{NATIVE}, {name}' if i else NATIVE: name for i, name in enumerate(names)}


def contenders(avx2: bool = False) -> list[str]:
    """Return the names of all contenders, in the order of the tables."""
    forms = native_forms(avx2) or {NATIVE: ''}
    real = [name for pair in zip(FLOAT_RIVALS, INT8_RIVALS) for name in pair]
    # ONNX Runtime has no switch for its instruction set
    onnx = [] if avx2 else [ONNX]
    return [PUBLISHED, EAGER, COMPILED, FLOAT, BITS, *forms, *onnx, *real]


def missing(name: str) -> str | None:
    """Return a sentence that says why a contender cannot run here; None if it can."""
    if name == NATIVE and not native.available():
        return f'{name} cannot run here: {native.problem()}'
    try:
        for package, extra in NEEDED.get(name, ()):
            require(package, extra, name)
    except ImportError as error:
        return str(error)
    return None
