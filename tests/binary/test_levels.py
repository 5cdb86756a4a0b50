"""Activations of 0 and 1 and of k bits: values, gradients, counts, checks, files, exports."""

import numpy as np
import pytest
import torch
from torch import nn

from mmesbnn.analysis import check_binary, count_ops, measure_capacity
from mmesbnn.binary import BinaryConv2d, BinaryLinear, DoReFa, Heaviside, RSign, dorefa, heaviside
from mmesbnn.deploy.packed.packing import pack
from mmesbnn.deploy.packed.unpacking import load_packed

X = torch.tensor([-2, -1, -0.3, -0.0, 0, 1e-30, 0.2, 0.5, 0.7, 1, 1.001, 3], dtype=torch.float64)


def gradient(function, x):
    x = x.clone().requires_grad_()
    upstream = torch.arange(1.0, x.numel() + 1, dtype=x.dtype)
    function(x).backward(upstream)
    return x.grad / upstream


@pytest.mark.parametrize('clip', [1.0, 0.5])
def test_heaviside(clip):
    for function in (Heaviside(clip), lambda x: heaviside(x, clip)):
        assert torch.equal(function(X), (X > 0).double())
        assert torch.equal(gradient(function, X), (X.abs() <= clip).double())


@pytest.mark.parametrize('bits', range(1, 9))
def test_dorefa(bits):
    steps = 2**bits - 1
    x = torch.cat([X, torch.linspace(-0.2, 1.2, 999, dtype=torch.float64)])
    expected = np.round(np.clip(x.numpy(), 0, 1) * steps) / steps
    inside = ((x >= 0) & (x <= 1)).double()
    for function in (DoReFa(bits), lambda x: dorefa(x, bits)):
        np.testing.assert_array_equal(function(x).numpy(), expected)
        assert torch.equal(gradient(function, x), inside)
    assert len(dorefa(x, bits).unique()) == 2**bits


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_window_of_dorefa_includes_its_ends(dtype):
    eps = torch.finfo(dtype).eps
    x = torch.tensor([0, 1, 1 + eps, -eps], dtype=dtype)
    assert gradient(dorefa, x).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize('bits', [0, 9, 1.5, True])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(ValueError, match=f'bits={bits}'):
        DoReFa(bits)


def test_a_window_without_width_is_refused():
    with pytest.raises(ValueError, match='clip=0'):
        Heaviside(clip=0)


class Net(nn.Module):
    """The sign is a module of its own, and a tiling and a pooling come between."""

    def __init__(self, sign):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.sign = RSign(8, sign)
        self.wide = BinaryConv2d(16, 4, 3, padding=1, sign=None)
        self.own = BinaryConv2d(4, 4, 1, sign=sign)
        self.plain = BinaryLinear(4, 5)

    def forward(self, x):
        x = self.sign(self.stem(x))
        x = self.own(self.wide(torch.cat([x, x], 1).flip(-1)))
        return self.plain(x.mean((2, 3)))


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_bops_are_counted_k_times(bits):
    ones = {layer.name: layer for layer in count_ops(Net('quadratic'), (3, 6, 6)).layers}
    found = count_ops(Net(dict(type='dorefa', bits=bits)), (3, 6, 6))
    for layer in found.layers:
        other = ones[layer.name]
        factor = bits if layer.name in ('wide', 'own') else 1
        assert layer.bops == factor * other.bops
        assert (layer.binary_params, layer.bytes_packed) == (
            other.binary_params,
            other.bytes_packed,
        )
        if factor > 1:
            assert layer.kind == f'{bits}x1-bit'
            assert layer.why == ''
        if layer.name in ('wide', 'own'):
            assert layer.capacity == 2 * layer.taps * (2**bits - 1) + 1
    assert (found.total['bops'] > 0 and f'{bits}x1-bit' in found.table()) or bits == 1


def test_capacity_is_the_number_of_sums():
    bits, taps = 2, 2
    levels = np.arange(4) / 3
    sums = {a * x + b * y for a in (-1, 1) for b in (-1, 1) for x in levels for y in levels}
    conv = BinaryConv2d(taps, 1, 1, sign=dict(type='dorefa', bits=bits))
    (layer,) = count_ops(nn.Sequential(conv), (2, 3, 3)).layers
    assert layer.capacity == len({round(value, 9) for value in sums})


def test_zero_and_one_are_binary_and_more_bits_are_not():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    assert check_binary(Net('heaviside'), x) == []
    findings = check_binary(Net(dict(type='dorefa', bits=2)), x)
    assert [finding.layer for finding in findings] == ['wide', 'own']
    assert '4 values from 0 to 1' in findings[0].message


def test_other_values_behind_a_sign_of_zero_and_one_are_found():
    class Wrong(Heaviside):
        def forward(self, x):
            return -super().forward(x)

    net = nn.Sequential(BinaryConv2d(3, 4, 1, sign=Wrong()))
    (finding,) = check_binary(net, torch.randn(1, 3, 4, 4))
    assert 'other than 0 and 1' in finding.message


@pytest.mark.parametrize('sign', ['heaviside', dict(type='dorefa', bits=3)])
def test_packed_files_hold_the_weights_only(sign, tmp_path):
    net, x = Net(sign).eval(), torch.randn(2, 3, 6, 6)
    pack(net, tmp_path / 'net.safetensors')
    twin = load_packed(tmp_path / 'net.safetensors', Net(sign))
    assert torch.equal(twin(x), net(x))


def test_measured_values():
    net, x = Net('heaviside').eval(), torch.randn(8, 3, 6, 6)
    found = {layer.name: layer for layer in measure_capacity(net, lambda: net(x))}
    assert 2 < found['own'].values <= found['own'].possible == 2 * 4 + 1
    net = Net(dict(type='dorefa', bits=2)).eval()
    found = {layer.name: layer for layer in measure_capacity(net, lambda: net(x))}
    assert found['own'].values is None and found['plain'].values is not None


@pytest.mark.parametrize('pad_value', [-1, 1])
def test_values_of_padding(pad_value):
    BinaryConv2d(3, 4, 3, padding=1, pad_value=1, sign='heaviside')
    if pad_value == -1:
        with pytest.raises(ValueError, match='pad_value=-1'):
            BinaryConv2d(3, 4, 3, padding=1, pad_value=-1, sign='heaviside')


@pytest.mark.parametrize('sign', ['heaviside', dict(type='dorefa', bits=2)])
def test_exports_leave_them_in_full_precision(sign):
    pytest.importorskip('openvino')
    from mmesbnn.deploy.openvino.graph import compile_graph, to_openvino

    torch.manual_seed(0)
    net, x = Net(sign).eval(), torch.randn(1, 3, 6, 6)
    conversion = to_openvino(net, [x], with_native=True)
    reasons = {layer.layer: layer.reason for layer in conversion.layers if not layer.binary}
    assert {'wide', 'own'} <= set(reasons)
    assert 'multiply -1 and 1 only' in reasons['wide']
    y = compile_graph(conversion.graph)([x.numpy()])[0]
    torch.testing.assert_close(torch.from_numpy(y), net(x).detach(), rtol=1e-4, atol=1e-4)
    assert conversion.native is not None


@pytest.mark.parametrize('sign', ['heaviside', dict(type='dorefa', bits=2)])
def test_onnx(sign, tmp_path):
    pytest.importorskip('onnxruntime')
    from mmesbnn.deploy.onnx import export_onnx

    torch.manual_seed(0)
    (agreement,) = export_onnx(
        Net(sign).eval(), tmp_path / 'net.onnx', [(torch.randn(1, 3, 6, 6),)], dynamic_batch=False
    )
    assert agreement.difference < 1e-4
