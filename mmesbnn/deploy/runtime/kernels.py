"""Kernels with which OpenVINO runs binary convolutions on this processor."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any


def binary_kernels(network: Any) -> dict[str, int]:
    """Count the binary convolutions by the kernel that runs them.

    Args:
        network: A compiled network, ``openvino.CompiledModel``.

    Returns:
        Counts by OpenVINO's names, such as ``{'jit_avx512_u1': 31}``. Kernels whose names
        begin with ``jit`` are generated for this processor.
    """
    infos = [node.get_rt_info() for node in network.get_runtime_model().get_ops()]
    return dict(
        Counter(
            info['primitiveType'].astype(str)
            for info in infos
            if info['layerType'].astype(str) == 'BinaryConvolution'
        )
    )


def lost_operator(version: str) -> str:
    """Explain that a version of OpenVINO cannot run binary layers on bits."""
    return (
        f'OpenVINO {version} does not run the operator BinaryConvolution, so binary layers '
        'would not run on bits: use a version that has it, such as 2026.4'
    )


def warn_of_slow_kernels(network: Any) -> None:
    """Warn if OpenVINO has no fast binary kernels for this processor.

    The fast kernels need an x86 processor with SSE 4.2 or later. On other processors the
    outputs are the same, but binary convolutions run as plain loops, which are slower than
    float convolutions.
    """
    kernels = binary_kernels(network)
    slow = sum(n for kind, n in kernels.items() if not kind.startswith('jit'))
    if slow:
        warnings.warn(
            f'{slow} of {sum(kernels.values())} binary convolutions run as slow plain '
            f'loops ({", ".join(kernels)}): OpenVINO has binary kernels for x86 '
            'processors with SSE 4.2, AVX2 or AVX-512 only',
            stacklevel=2,
        )
