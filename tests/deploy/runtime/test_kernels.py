"""The runner sees in the compiled network which kernels run binary convolutions."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from mmesbnn.deploy.runtime.core import shared_core
from mmesbnn.deploy.runtime.kernels import binary_kernels, warn_of_slow_kernels

ov = pytest.importorskip('openvino')


def compiled(count=2):
    """Compile a network of ``count`` binary convolutions in a row."""
    from openvino import opset13 as ops
    from openvino.opset1 import binary_convolution

    x = image = ops.parameter([1, 16, 8, 8], np.float32)
    zero, one = (np.full((1, 1, 1, 1), v, np.float32) for v in (0, 1))
    kept = []  # u1 tensors share this memory
    for _ in range(count):
        kept.append(np.random.default_rng(0).integers(0, 256, 288, dtype=np.uint8))
        bits = ops.constant(ov.Tensor(kept[-1], ov.Shape([16, 16, 3, 3]), ov.Type.u1))
        x = ops.fake_quantize(x, zero, zero, zero, one, 2)
        x = binary_convolution(x, bits, [1, 1], [1, 1], [1, 1], [1, 1], 'xnor-popcount', 0.0)
    return shared_core().compile_model(ov.Model([x], [image]), 'CPU')


def pretended(*kinds):
    """Return a fake network that reports these layers and kernels."""

    def node(layer, kind):
        told = {'layerType': layer, 'primitiveType': kind}
        info = {k: SimpleNamespace(astype=lambda _, v=v: v) for k, v in told.items()}
        return SimpleNamespace(get_rt_info=lambda: info)

    nodes = [node('BinaryConvolution', kind) for kind in kinds]
    nodes.append(node('Reorder', 'ref_any_f32'))
    model = SimpleNamespace(get_ops=lambda: nodes)
    return SimpleNamespace(get_runtime_model=lambda: model)


def test_counts_the_kernels_of_a_compiled_network():
    assert sum(binary_kernels(compiled(2)).values()) == 2


def test_no_warning_of_fast_kernels():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_of_slow_kernels(pretended('jit_avx512_u1', 'jit_sse42_u1'))
        warn_of_slow_kernels(pretended())


def test_warns_of_slow_kernels_and_counts_them():
    network = pretended('ref_any_u1', 'jit_avx2_u1', 'ref_any_u1')
    assert binary_kernels(network) == {'ref_any_u1': 2, 'jit_avx2_u1': 1}
    with pytest.warns(UserWarning, match='2 of 3 binary convolutions run as slow'):
        warn_of_slow_kernels(network)
