"""FLOP counters of other packages count binary products and agree with ours."""

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.analysis import count_ops
from mmesbnn.binary import BinaryConv2d, BinaryLinear, BinaryMultiheadAttention
from mmesbnn.models.backbones import BNext


def test_torchs_counter_counts_every_binary_product():
    conv, linear = BinaryConv2d(4, 6, 3, padding=1, groups=2), BinaryLinear(8, 6)
    plain = nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.Linear(8, 6)
    inputs = torch.randn(2, 4, 5, 7), torch.randn(2, 3, 8)
    totals = []
    for layers in ((conv, linear), plain):
        with FlopCounterMode(display=False) as counter:
            for layer, x in zip(layers, inputs):
                layer(x)
        totals.append(counter.get_total_flops())
    products = 2 * 6 * 5 * 7 * 2 * 9 + 2 * 3 * 6 * 8
    assert totals == [2 * products] * 2


@torch.no_grad()
def test_the_counters_of_torch_and_mmengine_agree_with_ours():
    model = BNext(dict(channels=[16, 32, 32]), tau=2, stem_stride=1).eval()
    ours = count_ops(model, torch.randn(1, 3, 16, 16))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 16, 16))
    by_operator = counter.get_flop_counts()['Global']
    binary = by_operator[torch.ops.mmesbnn.binary_conv2d]
    total = ours.total
    assert binary == 2 * total['bops'] > 0
    assert counter.get_total_flops() == 2 * (total['bops'] + total['fp_macs'])


def test_mmengine_counts_binary_products_once_as_multiplications():
    layer = nn.Sequential(BinaryConv2d(4, 6, 3, padding=1))
    info = get_model_complexity_info(layer, (4, 5, 7), show_table=False)
    assert info['flops'] == 6 * 5 * 7 * 4 * 9


@pytest.mark.parametrize(
    ('binary', 'real', 'shape'),
    [
        (BinaryConv2d(4, 6, 3, stride=2), nn.Conv2d(4, 6, 3, stride=2), (4, 5, 7)),
        (BinaryLinear(8, 6), nn.Linear(8, 6), (3, 8)),
    ],
)
def test_mmengine_counts_the_activations_of_binary_layers_as_those_of_real_ones(
    binary, real, shape
):
    found = [
        get_model_complexity_info(layer, shape, show_table=False)['activations']
        for layer in (binary, real)
    ]
    assert found[0] == found[1] > 0


def test_attention_is_counted():
    layer = BinaryMultiheadAttention(16, 2)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, 5, 16))
    counts = counter.get_flop_counts()['Global']
    assert counts[torch.ops.mmesbnn.binary_matmul] == 2 * 2 * 5 * 5 * 16
