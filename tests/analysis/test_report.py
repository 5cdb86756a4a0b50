"""The capacity formula, the table and the JSON file."""

import itertools
import json

import pytest
import torch
from torch import nn

from mmesbnn.analysis import OpsReport, count_ops, representation_capacity, save_json
from mmesbnn.binary import BinaryConv2d, BinaryLinear, Expansion, ShrunkConv2d
from mmesbnn.models.layers.minmax import MinMaxConv2d


def all_signs(n):
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=n)))


@pytest.mark.parametrize('n', [1, 2, 3, 6])
def test_capacity_of_a_linear_layer_by_enumeration(n):
    layer = BinaryLinear(n, 2**n)
    layer.weight.data = all_signs(n)
    values = layer(all_signs(n)).unique()
    assert len(values) == representation_capacity(n) == n + 1
    assert count_ops(layer, (n,)).layers[0].capacity == n + 1


@pytest.mark.parametrize('tau', [1, 2])
def test_capacity_of_an_es_convolution_by_enumeration(tau):
    conv = ShrunkConv2d(2, 2, (2, 1), expansion=Expansion(tau))
    taps = 2 * tau * 2
    kernels = all_signs(taps).reshape(-1, 1, 2 * tau, 2, 1)
    images = all_signs(taps).reshape(-1, 2 * tau, 2, 1)
    values = set()
    for kernel in kernels:
        conv.weight.data = kernel.expand_as(conv.weight).clone()
        values |= set(conv(images).unique().tolist())
    (layer,) = count_ops(conv, (2 * tau, 4, 4)).layers
    assert (layer.taps, layer.capacity) == (taps, len(values))


def test_only_binary_layers_have_a_capacity():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), BinaryConv2d(4, 4, 3), BinaryConv2d(4, 4, 1))
    report = count_ops(model, (3, 4, 4))
    assert [layer.capacity for layer in report.layers] == [None, 37, 5]
    total = report.total
    assert total['binary_layers'] == 2
    assert (total['capacity_min'], total['capacity_median']) == (5, 21)
    assert total['capacity_max'] == 37


def test_table_has_all_layers_totals_and_the_convention():
    model = nn.Sequential(MinMaxConv2d(3, 4, 1), BinaryConv2d(4, 4, 1))
    text = count_ops(model, (3, 1, 1)).table()
    assert text.startswith('input 1 x 3 x 1 x 1\n')
    for words in ('first layer, reads the input', 'MinMaxConv2d', 'all other modules'):
        assert (words in text) is (words != 'MinMaxConv2d')
    assert '12 8-bit MACs / 8 + 16 BOPs / 64' in text
    assert 'takes 5 to 5 values' in text
    assert 'Not counted' in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_table_without_layers():
    assert 'OPs         0e8' in OpsReport().table()


def test_json_holds_layers_and_totals(tmp_path):
    report = count_ops(nn.Sequential(BinaryConv2d(4, 4, 1)), (4, 2, 2))
    path = tmp_path / 'ops.json'
    save_json(path, report.to_dict())
    content = json.loads(path.read_text())
    assert content == report.to_dict()
    assert {
        'fp_macs',
        'bops',
        'ops',
        'fp_params',
        'binary_params',
        'bytes_fp32',
        'bytes_packed',
    } <= set(content['total'])
    assert content['layers'][0]['ops'] == 1
    assert content['inputs'] == [[1, 4, 2, 2]]


def test_json_is_written_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'ops.json'
    save_json(path, {'a': 1})
    with pytest.raises(TypeError):
        save_json(path, {'a': object()})
    assert json.loads(path.read_text()) == {'a': 1}
    assert [file.name for file in tmp_path.iterdir()] == ['ops.json']
    with pytest.raises(OSError, match=r'nowhere/ops\.json'):
        save_json(tmp_path / 'nowhere' / 'ops.json', {})


def test_plain_layers_among_binary_ones_are_named():
    """A network that passes conv_cfg to some of its convolutions only."""
    layers = [
        nn.Conv2d(3, 8, 1),
        BinaryConv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 4, 1),
    ]
    table = count_ops(nn.Sequential(*layers), (3, 12, 12)).table()
    assert 'real        1 of 5 layers are real' in table
    assert 'the network defines them so: 2; if the network has a conv_cfg' in table
    assert 'depthwise' in table
    del layers[1]
    table = count_ops(nn.Sequential(*layers), (3, 12, 12)).table()
    assert 'are real only because' not in table
