import pytest
import torch
from torch import nn

from mmesbnn.binary import (
    BinaryConv2d,
    BinaryLinear,
    ESConv2d,
    LearnableShift,
    RSign,
    binary_conv2d,
)

pytest.importorskip('openvino')

import numpy as np

from mmesbnn.deploy.openvino.graph import to_openvino
from mmesbnn.deploy.runtime.manifest import ExportError
from tests.deploy.graphs import converted, kinds, run_graph


def shifted(module):
    with torch.no_grad():
        for shift in module.modules():
            if isinstance(shift, LearnableShift):
                shift.bias.copy_(torch.randn(shift.bias.shape))
    return module


def agrees(model, x):
    conversion, y = converted(model, x)
    with torch.no_grad():
        expected = model.double()(x.double())
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-6, atol=1e-6)
    return kinds(conversion.graph), conversion


def test_learnable_shifts_become_thresholds():
    model = shifted(nn.Sequential(LearnableShift(8), BinaryConv2d(8, 4, 3)))
    found, conversion = agrees(model, torch.randn(2, 8, 6, 6))
    assert 'Add' not in found and 'Select' not in found
    (compare,) = [n for n in conversion.graph.get_ops() if n.get_type_name() == 'FakeQuantize']
    threshold = compare.input_value(1).get_node().get_data()
    np.testing.assert_array_equal(
        threshold.ravel(), -model[0].bias.detach().float().numpy().ravel()
    )


def test_shifts_that_make_several_channels_of_one():
    class Levels(nn.Module):
        def __init__(self):
            super().__init__()
            self.levels = nn.Parameter(torch.linspace(-1, 1, 8).view(8, 1, 1))
            self.conv = BinaryConv2d(8, 4, 3)

        def forward(self, x):
            return self.conv(x + self.levels)

    agrees(Levels(), torch.randn(2, 1, 6, 6))


def test_values_exactly_at_a_threshold():
    model = nn.Sequential(LearnableShift(4), BinaryConv2d(4, 5, 1))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([0.5, -0.25, 0.0, 2.0]).view(1, 4, 1, 1))
    x = torch.tensor([-0.5, 0.25, -0.0, 0.0, -2.0]).repeat(20).view(1, 4, 5, 5)
    agrees(model, x)


def test_thresholds_of_tokens():
    shift = LearnableShift(12, channels_last=True)
    found, _ = agrees(shifted(nn.Sequential(shift, BinaryLinear(12, 6))), torch.randn(2, 5, 12))
    assert 'Add' not in found and 'Select' not in found


def test_one_sign_for_several_convolutions():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.sign = RSign(8)
            self.a = BinaryConv2d(8, 4, 1, sign=None)
            self.b = BinaryConv2d(8, 4, 3, padding=1, sign=None)

        def forward(self, x):
            s = self.sign(x)
            return self.a(s) + self.b(s)

    found, conversion = agrees(shifted(Two()), torch.randn(1, 8, 6, 6))
    assert found['BinaryConvolution'] == 2 and 'Select' not in found
    assert [layer.layer for layer in conversion.layers] == ['a', 'b']


@pytest.mark.parametrize('groups', [1, 2])
def test_drop_in_layers(groups):
    model = ESConv2d(8, 8, 3, padding=1, tau=2, es_groups=groups, bias=True)
    found, _ = agrees(model, torch.randn(1, 8, 6, 6))
    assert found['BinaryConvolution'] == groups
    assert 'Select' not in found


@pytest.mark.parametrize('pad_value', [-1, 0, 1])
def test_signs_that_are_zero_at_zero(pad_value):
    model = nn.Sequential(
        LearnableShift(6),
        BinaryConv2d(6, 5, 3, padding=1, pad_value=pad_value, sign=dict(type='quadratic', zero=0)),
    )
    with torch.no_grad():
        model[0].bias.fill_(1.0)
    x = torch.randn(1, 6, 8, 8).mul(2).round()
    assert (x == -1).any()  # the inputs really contain 0
    found, conversion = agrees(model, x)
    assert found['BinaryConvolution'] == 2
    (report,) = conversion.layers
    assert report.binary and 'two binary convolutions' in report.reason


@pytest.mark.parametrize('zero', [-1, 0])
@pytest.mark.parametrize('groups', [1, 4])
def test_kernels_of_one_channel(groups, zero):
    sign = dict(type='quadratic', zero=zero)
    layer = BinaryConv2d(groups, 8, 3, padding=1, groups=groups, sign=sign)
    model = shifted(nn.Sequential(LearnableShift(groups), layer)).eval()
    x = torch.randn(1, groups, 6, 6)  # gives no sign of 0, unlike the other image
    other = torch.where(torch.rand(x.shape) < 0.5, -model[0].bias.detach(), x)
    conversion = to_openvino(model, [x])
    found = kinds(conversion.graph)
    assert 'Select' not in found and 'Ceiling' not in found
    with torch.no_grad():
        y = model(other).numpy()
    np.testing.assert_allclose(run_graph(conversion.graph, other)[0], y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('zero', [-1, 0])
@pytest.mark.parametrize('copies', [(1, 2, 1, 1), (1, 1, 2, 1)])
def test_copies_of_signs_keep_their_thresholds(copies, zero):
    model = Between(
        BinaryConv2d(12 * copies[1], 6, 3, sign=None),
        lambda x: x.repeat(copies),
        sign=dict(type='quadratic', zero=zero),
    )
    found, _ = agrees(shifted(model), torch.randn(1, 12, 5, 6))
    assert 'Select' not in found and 'Ceiling' not in found


def test_zeros_of_signs_behind_other_operators_are_refused():
    model = Between(
        BinaryConv2d(12, 6, 1, sign=None),
        lambda x: nn.functional.max_pool2d(x, 2),
        sign=dict(type='quadratic', zero=0),
    )
    with pytest.raises(ExportError, match=r'^layer: its inputs are signs that can be 0, changed'):
        converted(model, torch.randn(1, 12, 4, 4))


def test_inputs_that_are_no_signs_are_refused():
    class Unsigned(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = BinaryConv2d(4, 4, 1, sign=None)

        def forward(self, x):
            return self.conv(x)

    with pytest.raises(ExportError, match=r'^conv: its input is not \+-1'):
        converted(Unsigned(), torch.randn(1, 4, 5, 5))


def test_signs_made_elsewhere_are_compared_as_they_are():
    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('weight', torch.randn(3, 4, 1, 1).sign())

        def forward(self, x):
            return binary_conv2d(2.0 * (x > 0.5).to(x.dtype) - 1.0, self.weight)

    found, _ = agrees(Given(), torch.randn(1, 4, 5, 5))
    assert found['BinaryConvolution'] == 1


class Between(nn.Module):
    """A convolution or linear layer of shifted signs, moved by ``move``."""

    def __init__(self, layer, move, **options):
        super().__init__()
        self.sign, self.layer, self.move = RSign(12, **options), layer, move

    def forward(self, x):
        return self.layer(self.move(self.sign(x)))


def shuffled(x):
    return x.unflatten(2, (3, 4)).transpose(2, 3).flatten(2)


def test_shuffled_tokens_keep_their_thresholds():
    model = Between(BinaryLinear(12, 6, sign=None), shuffled, channels_last=True)
    agrees(shifted(model), torch.randn(2, 5, 12))


@pytest.mark.parametrize('value', [-1, 1])
def test_signs_padded_by_hand_keep_their_value(value):
    def move(x):
        return nn.functional.pad(x, (1, 1, 1, 1), value=value)

    model = Between(BinaryConv2d(12, 6, 3, sign=None), move)
    agrees(shifted(model), 3 * torch.randn(1, 12, 5, 6))


@pytest.mark.parametrize('pads', [(1, 1), (0, 0, 0, 0, 0, 4)])
def test_signs_padded_by_zeros_are_refused(pads):
    layer = BinaryConv2d(12 + sum(pads[4:]), 6, 3, sign=None)
    model = Between(layer, lambda x: nn.functional.pad(x, pads))
    with pytest.raises(ExportError, match=r'^layer: its input is not \+-1'):
        converted(shifted(model), torch.randn(1, 12, 5, 6))
