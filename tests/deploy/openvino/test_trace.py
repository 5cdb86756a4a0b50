"""Recorded calls and the operators of the trace are matched, and mismatches are refused."""

import numpy as np
import pytest
import torch
from torch import nn

from mmesbnn.binary import BinaryConv2d, BinaryLinear

pytest.importorskip('openvino')

from mmesbnn.deploy.openvino import trace as tracing
from mmesbnn.deploy.openvino.calls import record
from mmesbnn.deploy.runtime.manifest import ExportError
from tests.deploy.graphs import run_graph


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = BinaryConv2d(8, 6, 3, padding=1)
        self.narrow = BinaryConv2d(6, 4, 3)
        self.head = BinaryLinear(4, 5)

    def forward(self, x):
        return self.head(self.narrow(self.wide(x)).mean((2, 3)))


EXAMPLE = [torch.randn(2, 8, 6, 6)]


def test_calls_are_recorded_in_order():
    model = Net().eval()
    wide, narrow, head = record(model, EXAMPLE)
    assert [call.layer for call in (wide, narrow, head)] == ['wide', 'narrow', 'head']
    assert wide.weight_shape == (6, 8, 3, 3) and wide.geometry.padding == (1, 1)
    assert wide.macs == 2 * 6 * 6 * 6 * 8 * 9
    assert head.operator == 'binary_linear' and head.macs == 2 * 5 * 4
    assert wide.exact_signs and wide.reason is None


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda calls: calls[::-1], "operator 0 .*binary_conv2d .*binary_linear .*'head'"),
        (lambda calls: [calls[1], calls[0], calls[2]], "operator 0 .*binary_conv2d .*'narrow'"),
        (lambda calls: calls[:1], 'operator 1 .*binary_conv2d .*none'),
        (lambda calls: [*calls, calls[-1]], 'ran 4 binary operators, its trace has 3'),
    ],
)
def test_a_trace_of_other_operators_is_refused(change, message, monkeypatch):
    model = Net().eval()
    monkeypatch.setattr(tracing, 'record', lambda *args: change(record(*args)))
    with pytest.raises(ExportError, match=message):
        tracing.trace(model, EXAMPLE)


@pytest.mark.parametrize(('beta', 'threshold'), [(1, 20), (2.5, 20), (2, 0.5)])
def test_softplus_has_its_slope_and_threshold(beta, threshold):
    model, x = nn.Softplus(beta, threshold), torch.linspace(-9, 9, 40).view(1, 40)
    (y,) = run_graph(tracing.trace(model, [x])[0], x.numpy())
    torch.testing.assert_close(torch.from_numpy(y), model(x))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.int32, torch.int64])
@pytest.mark.parametrize('numbers', [(0, -1), (1, 20), (0.0, -1), (1.5, -2.5)])
def test_thresholds_take_whole_numbers_and_maps_of_every_dtype(numbers, dtype):
    model, x = nn.Threshold(*numbers), torch.arange(-9, 9).view(1, 18).to(dtype)
    (y,) = run_graph(tracing.trace(model, [x])[0], x.numpy())
    np.testing.assert_array_equal(y, model(x).numpy())


class Listed(nn.Module):
    """Its layer is in a list, so it is no constant of a trace."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(40, 2)]

    def forward(self, x):
        return self.layers[0](x)


class Named(nn.Module):
    def forward(self, x):
        return x, 'name'


@pytest.mark.parametrize(
    ('model', 'message'),
    [(Listed(), 'Cannot insert a Tensor that requires grad'), (Named(), 'Only tensors')],
)
def test_what_torch_cannot_trace_is_an_error_of_one_line(model, message):
    with pytest.raises(ExportError, match=f'^torch cannot trace the model: {message}') as caught:
        tracing.trace(model, [torch.zeros(1, 40)])
    assert '\n' not in str(caught.value) and len(str(caught.value)) <= 400
