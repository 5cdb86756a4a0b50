"""The check finds everything that makes a network not binary, and reports nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

from mmesbnn.analysis import check_binary, check_input, check_weight
from mmesbnn.binary import (
    BinaryConv2d,
    BinaryLinear,
    BinaryMultiheadAttention,
    Expansion,
    ShrunkLinear,
)
from mmesbnn.models.backbones.bnext import BNext

from .digits import set_temperature

ARCH = dict(channels=[16, 32, 32, 64])


@pytest.mark.parametrize('tau', [1, 2])
def test_bnext_is_binary_once_its_temperature_is_down(tau):
    model = set_temperature(BNext(arch=ARCH, tau=tau, stem_stride=1), 1e-8)
    assert check_binary(model, torch.randn(2, 3, 16, 16)) == []


def test_bnext_is_not_binary_before():
    model = set_temperature(BNext(arch=ARCH, stem_stride=1), 0.81)
    findings = check_binary(model, torch.randn(2, 3, 16, 16))
    convs = [n for n, m in model.named_modules() if isinstance(m, BinaryConv2d)]
    assert sorted(finding.layer for finding in findings) == sorted(convs)
    assert {finding.what for finding in findings} == {'weight'}
    assert str(findings[0]).startswith(f'{findings[0].layer}: weights take 144 values')
    assert str(findings[0]).endswith('(temperature 0.81)')


@pytest.mark.parametrize('kind', ['scaled_sign', 'centred_sign'])
def test_scaled_signs_are_binary(kind):
    model = nn.Sequential(
        BinaryConv2d(4, 6, 3, padding=1, weight_binarizer=kind),
        nn.Flatten(),
        ShrunkLinear(12, 4, expansion=Expansion(2, 2), weight_binarizer=kind),
    )
    assert check_binary(model, torch.randn(3, 4, 2, 4)) == []


def test_zero_inputs_under_the_published_sign():
    conv = BinaryConv2d(2, 2, 1, sign=dict(type='quadratic', zero=0))
    model = nn.Sequential(nn.ReLU(), conv)
    (finding,) = check_binary(model, -torch.ones(1, 2, 2, 2))
    assert (finding.layer, finding.what) == ('1', 'input')
    assert 'other than +-1, e.g. 0 (1e+02 %' in finding.message
    model[1].sign.zero = -1
    assert check_binary(model, -torch.ones(1, 2, 2, 2)) == []


def test_padding_is_no_input():
    conv = BinaryConv2d(2, 2, 3, padding=1)
    assert check_binary(conv, torch.randn(1, 2, 3, 3)) == []


def test_an_input_nobody_binarized():
    linear = BinaryLinear(4, 4, sign=None)
    (finding,) = check_binary(linear, torch.tensor([[1.0, -1.0, 0.5, 1.0]]))
    assert finding.layer == 'BinaryLinear'
    assert 'e.g. 0.5 (25 % of the entries)' in finding.message


@pytest.mark.parametrize('kind', ['temperature', 'scaled_sign', 'real'])
def test_nan_in_a_weight(kind):
    conv = set_temperature(BinaryConv2d(2, 3, 1, weight_binarizer=kind), 0.0)
    conv.weight.data[1, 0] = float('nan')
    (finding,) = check_binary(conv, torch.randn(1, 2, 2, 2))
    assert 'weights hold nan in output channel 1' in finding.message


def test_nan_in_an_input():
    x = torch.randn(1, 2, 2, 2)
    x[0, 0, 0, 0] = float('nan')
    (finding,) = check_binary(BinaryConv2d(2, 3, 1), x)
    assert finding.what == 'input' and 'e.g. nan' in finding.message


def test_real_weights():
    conv = BinaryConv2d(8, 3, 1, weight_binarizer='real')
    (finding,) = check_binary(conv, torch.randn(1, 8, 2, 2))
    assert 'weights take 8 values in output channel 0' in finding.message
    assert '"real"' in finding.message


def test_a_network_without_binary_layers():
    (finding,) = check_binary(nn.Conv2d(3, 3, 1), torch.randn(1, 3, 2, 2))
    assert (finding.layer, str(finding)) == ('', 'no binary layer ran')


def test_weights_of_layers_that_do_not_run_count():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = BinaryLinear(4, 4)
            self.idle = BinaryLinear(4, 4, weight_binarizer='real')

        def forward(self, x):
            return self.used(x)

    (finding,) = check_binary(Idle(), torch.randn(2, 4))
    assert (finding.layer, finding.what) == ('idle', 'weight')


def test_a_layer_that_fails_twice_is_named_once():
    layer = BinaryLinear(4, 4, weight_binarizer='real')
    assert len(check_binary(nn.Sequential(layer, layer), torch.randn(2, 4))) == 1


def test_batches_of_several_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = BinaryLinear(4, 4)

        def forward(self, x, y):
            return self.layer(x + y)

    x, y = torch.randn(2, 2, 4)
    assert check_binary(Two(), (x, y)) == []
    assert check_binary(Two(), dict(x=x, y=y)) == []


def test_runs_in_eval_mode_and_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(4), BinaryConv2d(4, 4, 1)).train()
    check_binary(model, torch.randn(2, 4, 3, 3) + 5)
    assert model.training and model[0].training
    assert torch.equal(model[0].running_mean, torch.zeros(4))
    assert model[1].weight.grad is None


@pytest.mark.parametrize(
    ('rows', 'expected'),
    [
        ([[1, -1, 1], [1, 1, 1], [-1, -1, -1]], None),
        ([[0.3, -0.3, 0.3], [2, 2, -2]], None),
        ([[1, -1, 1], [1, -1, 0]], 'take 3 values in output channel 1'),
        ([[1, 0, 1]], 'take the values 0 and 1 in output channel 0, not -a and +a'),
        ([[1.0, 0.3, 1.0]], 'take the values 0.3 and 1'),
        ([[1.0, float('inf'), 1.0]], 'hold inf in output channel 0'),
    ],
)
def test_check_weight(rows, expected):
    message = check_weight(torch.tensor(rows, dtype=torch.float))
    assert message is None if expected is None else expected in message


def test_check_input():
    assert check_input(torch.tensor([1.0, -1.0])) is None
    assert 'e.g. 0.999' in check_input(torch.tensor([1.0, 0.999]))


@pytest.mark.parametrize('batch', [np.zeros((2, 2, 3, 3), np.float32), None, 3, 'x'])
def test_other_batches_are_named(batch):
    with pytest.raises(ValueError, match=r'^batch=.* must be a tensor, or a mapping, list or') as e:
        check_binary(BinaryConv2d(2, 2, 1), batch)
    assert len(str(e.value)) < 400


def test_a_network_without_values_is_not_known_to_be_binary():
    model = nn.Sequential(BinaryLinear(8, 6), nn.ReLU(), BinaryMultiheadAttention(6, 2)).to('meta')
    findings = check_binary(model, torch.randn(2, 3, 8, device='meta'))
    assert {finding.layer.split('.')[0] for finding in findings} == {'0', '2'}
    assert all(str(finding).endswith('device meta, without values') for finding in findings)
