"""Every formula equals a count by hand and the result of torch's own counter."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmesbnn.analysis import count_ops
from mmesbnn.binary import BinaryConv2d, BinaryLinear, Expansion, ShrunkConv2d, ShrunkLinear


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def totals(module, *shapes):
    total = count_ops(module, *shapes).total
    return total['fp_macs'], total['bops']


CONVOLUTIONS = [
    # 16 outputs of 5 x 4 pixels, each of 8 / 2 channels times 3 x 3 taps
    (dict(kernel_size=3, stride=2, padding=1, groups=2), (8, 9, 7), 16 * 5 * 4 * 4 * 9),
    # a 3 x 1 kernel with dilation 2 reaches over 5 rows of 10: 6 fit, and all columns
    (dict(kernel_size=(3, 1), dilation=2), (8, 10, 10), 16 * 6 * 10 * 8 * 3),
    (dict(kernel_size=1), (8, 5, 5), 16 * 25 * 8),
]


@pytest.mark.parametrize(('options', 'shape', 'expected'), CONVOLUTIONS)
def test_convolution(options, shape, expected):
    assert totals(nn.Conv2d(8, 16, **options), shape) == (expected, 0)
    assert totals(BinaryConv2d(8, 16, **options), shape) == (0, expected)


def test_padding_by_minus_one_costs_as_much_as_by_zero():
    conv = BinaryConv2d(4, 4, 3, padding=1, pad_value=-1)
    assert totals(conv, (4, 5, 5)) == (0, 4 * 25 * 4 * 9)


def test_transposed_convolution():
    # every one of the 3 x 5 x 5 inputs meets 4 x 2 x 2 weights
    assert totals(nn.ConvTranspose2d(3, 4, 2, 2), (3, 5, 5)) == (75 * 16, 0)


@pytest.mark.parametrize('kind', [nn.Conv2d, nn.ConvTranspose2d])
def test_traced_convolution(kind):
    # networks of torch.jit.trace call another operator
    conv = kind(4, 6, 3, stride=2, groups=2)
    traced = torch.jit.trace(conv, torch.zeros(1, 4, 7, 7))
    assert totals(traced, (4, 7, 7)) == totals(conv, (4, 7, 7)) > (0, 0)


@pytest.mark.parametrize('bias', [False, True])
def test_linear(bias):
    shapes = [(12,), (5, 12), (2, 5, 12)]
    for shape, rows in zip(shapes, (1, 5, 10)):
        expected = rows * 12 * 7
        assert totals(nn.Linear(12, 7, bias), shape) == (expected, 0)
        assert totals(BinaryLinear(12, 7, bias), shape) == (0, expected)


@pytest.mark.parametrize('tau', [1, 2, 4])
@pytest.mark.parametrize('groups', [1, 2])
def test_es_layers_cost_what_they_replace(tau, groups):
    factor = tau * groups
    conv = ShrunkConv2d(8, 16, 3, padding=1, expansion=Expansion(tau, groups))
    assert totals(conv, (8 * factor, 6, 6)) == (0, 8 * 16 * 9 * 36)
    linear = ShrunkLinear(8, 16, expansion=Expansion(tau, groups))
    assert totals(linear, (6, 8 * factor)) == (0, 8 * 16 * 6)
    for layer, shape in ((conv, (8 * factor, 6, 6)), (linear, (6, 8 * factor))):
        (row,) = count_ops(layer, shape).layers
        assert row.taps == 8 * tau * (9 if layer is conv else 1)
        assert row.binary_params == 8 * 16 * (9 if layer is conv else 1)


@pytest.mark.parametrize(
    ('function', 'shapes', 'expected'),
    [
        (torch.bmm, [(2, 3), (3, 4)], 2 * 3 * 4),
        (lambda a, b: torch.einsum('blc,bkc->blk', a, b), [(2, 3), (4, 3)], 24),
        (lambda a, b: torch.baddbmm(a @ b, a, b), [(2, 3), (3, 4)], 2 * 24),
        (lambda a, b: a[0] @ b[0], [(2, 3), (3,)], 2 * 3),
        (lambda a, b: a[0] @ b[0], [(3,), (3,)], 3),
        (lambda a, b: torch.addbmm(a[0], a, b), [(3, 3), (3, 3)], 27),
        (lambda a, b: a.new_zeros(1, 2, 4).baddbmm_(a, b), [(2, 3), (3, 4)], 24),
        (lambda a, b: torch.bmm(a, b, out=a.new_zeros(1, 2, 4)), [(2, 3), (3, 4)], 24),
        (lambda a, b: torch._addmm_activation(a[0, 0, :1], a[0], b[0]), [(2, 3), (3, 4)], 24),
    ],
)
def test_products(function, shapes, expected):
    assert totals(Apply(function), *shapes) == (expected, 0)


class Quantized(nn.Module):
    """A product of integers, as in layers of torchao with 8 bits."""

    def forward(self, x):
        rows = x.flatten(0, -2).to(torch.int8)
        return torch._int_mm(rows, rows.new_ones(x.shape[-1], 16)).to(x.dtype)


def test_products_of_integers():
    assert totals(Quantized(), (32, 24)) == (32 * 24 * 16, 0)


@pytest.mark.parametrize('kind', [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize('both', [False, True])
def test_recurrent_layers(kind, both):
    layer = kind(4, 6, num_layers=2, batch_first=True, bidirectional=both)
    matrices = sum(x.numel() for x in layer.parameters() if x.dim() == 2)
    assert totals(layer, (5, 4)) == (5 * matrices, 0)


def test_projected_lstm():
    layer = nn.LSTM(4, 6, proj_size=3, batch_first=True)
    assert totals(layer, (5, 4)) == (5 * (24 * 4 + 24 * 3 + 3 * 6), 0)


def test_deformable_convolution():
    ops = pytest.importorskip('torchvision.ops')
    layer = Apply(lambda x, weight: ops.deform_conv2d(x, x, weight, padding=1))
    assert totals(layer, (18, 4, 4), (18, 3, 3)) == (16 * 18 * 9, 0)


def test_bilinear():
    # 7 outputs, each of 5 sums of 4 products, weighted by the 5 entries of the other input
    assert totals(nn.Bilinear(5, 4, 7), (2, 5), (2, 4)) == (2 * 7 * 5 * (4 + 1), 0)


def test_attention_kernel():
    # 2 heads: 5 queries of 8, 7 keys of 8, 7 values of 8
    shapes = [(2, 5, 8), (2, 7, 8), (2, 7, 8)]
    attention = Apply(F.scaled_dot_product_attention)
    assert totals(attention, *shapes) == (2 * 5 * 7 * (8 + 8), 0)


def test_attention_module_hides_nothing():
    # projections 4 x 5 x 8 x 8, then 5 x 5 scores and 5 values of 8
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    expected = 4 * 5 * 64 + 2 * 25 * 8 + 2 * 5 * 8 * 16
    assert totals(encoder, (5, 8)) == (expected, 0)


def test_elementwise_work_is_not_counted():
    module = nn.Sequential(nn.BatchNorm2d(4), nn.PReLU(4), nn.AvgPool2d(2))
    assert totals(module, (4, 8, 8)) == (0, 0)


@pytest.mark.skipif(not hasattr(F, 'grouped_mm'), reason='torch has no grouped product')
def test_grouped_product():
    weights, images = (torch.randn(*size, dtype=torch.bfloat16) for size in ((4, 8, 16), (4, 5, 8)))
    assert totals(Apply(F.grouped_mm), images, weights) == (4 * 5 * 8 * 16, 0)
    ends = torch.tensor([2, 4, 6, 10], dtype=torch.int32)
    rows = Apply(lambda x, w: F.grouped_mm(x, w, offs=ends))
    assert totals(rows, torch.randn(10, 8, dtype=torch.bfloat16), weights) == (10 * 8 * 16, 0)
    # each group sums its own part of the 16 terms
    factors = (torch.randn(size, 16, dtype=torch.bfloat16) for size in (8, 16))
    ends = torch.tensor([2, 4, 6, 16], dtype=torch.int32)
    terms = Apply(lambda x, y: F.grouped_mm(x, y.T, offs=ends))
    assert totals(terms, *factors) == (8 * 16 * 16, 0)


def test_a_packed_weight_is_an_error():
    weight = torch.quantize_per_tensor(torch.randn(6, 4), 0.1, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    layer = Apply(lambda x: torch.ops.quantized.linear_dynamic(x, packed))
    with pytest.raises(NotImplementedError, match='cannot count quantized::linear_dynamic'):
        count_ops(layer, (4,))
