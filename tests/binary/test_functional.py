"""The two operators: values, gradients, and use by other parts of torch."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmesbnn.binary import (
    BinaryConv2d,
    BinaryLinear,
    ESConv2d,
    ESLinear,
    Expansion,
    ShrunkLinear,
    binary_conv2d,
    binary_linear,
    sign,
)
from mmesbnn.binary.operators import BINARY_CONV2D, BINARY_LINEAR
from tests.binary.operators import Recorder

# (kernel, stride, padding, dilation, groups)
SETTINGS = [
    (3, 1, 1, 1, 1),
    (1, 1, 0, 1, 1),
    (3, 2, 1, 1, 2),
    (5, 1, 2, 1, 4),
    (3, 1, 2, 2, 1),
    ((3, 2), (2, 1), (1, 2), (1, 2), 2),
    (1, 2, 1, 1, 1),
]
PAD_VALUES = (-1, 0, 1)


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def random_signs(*shape, dtype=torch.float32):
    return torch.randint(2, shape).to(dtype) * 2 - 1


def operands(kernel, groups, dtype=torch.float32):
    x = random_signs(2, 4, 9, 8, dtype=dtype)
    return x, random_signs(8, 4 // groups, *pair(kernel), dtype=dtype)


def reference(x, weight, stride, padding, dilation, groups, pad_value):
    vertical, horizontal = pair(padding)
    padded = F.pad(x, (horizontal, horizontal, vertical, vertical), value=pad_value)
    return F.conv2d(padded, weight, None, stride, 0, dilation, groups)


# values --------------------------------------------------------------------------


@pytest.mark.parametrize('pad_value', PAD_VALUES)
@pytest.mark.parametrize(('kernel', 'stride', 'padding', 'dilation', 'groups'), SETTINGS)
def test_conv_is_the_convolution_of_the_padded_input(
    kernel, stride, padding, dilation, groups, pad_value
):
    x, weight = operands(kernel, groups)
    settings = (stride, padding, dilation, groups, pad_value)
    got = binary_conv2d(x, weight, *settings)
    assert torch.equal(got, reference(x, weight, *settings))


def test_conv_defaults_are_those_of_torch():
    x, weight = operands(3, 1)
    assert torch.equal(binary_conv2d(x, weight), F.conv2d(x, weight))


def test_float32_sums_are_exact_integers():
    x, weight = random_signs(2, 512, 4, 4), random_signs(6, 512, 3, 3)
    windows = F.unfold(x.double(), 3, padding=1).numpy().astype(np.int64)
    rows = weight.reshape(6, -1).numpy().astype(np.int64)
    expected = torch.from_numpy(np.einsum('ok,nkp->nop', rows, windows))
    got = binary_conv2d(x, weight, padding=1)
    assert torch.equal(got.flatten(2), expected.float())


def scaled(signs):
    """Return weights of the given signs with a scale per channel that is no power of two."""
    scales = 0.1 + torch.rand(len(signs))
    return signs * scales.view(-1, *[1] * (signs.dim() - 1)), scales


@pytest.mark.parametrize('trains', [False, True])
def test_scaled_signs_that_cancel_give_zero(trains):
    x, signs = random_signs(2, 16, 9, 9), random_signs(8, 16, 3, 3)
    weight, scales = scaled(signs)
    weight.requires_grad_(trains)
    sums = F.conv2d(x.double(), signs.double()).float()
    got = binary_conv2d(x, weight)
    assert (sums == 0).any()
    assert torch.equal(got, sums * scales[:, None, None])

    rows, signs = random_signs(50, 64), random_signs(8, 64)
    weight, scales = scaled(signs)
    weight.requires_grad_(trains)
    sums = (rows.double() @ signs.double().T).float()
    assert (sums == 0).any()
    assert torch.equal(binary_linear(rows, weight), sums * scales)


@pytest.mark.parametrize('entry', [0.7, 0, torch.nan, torch.inf, 1e-30])
@pytest.mark.parametrize('place', [(1, 0, 0, 0), (1, 2, 1, 1), slice(None), 1])
def test_weights_that_are_not_binary_are_multiplied_as_they_are(entry, place):
    x, signs = random_signs(2, 4, 9, 9), random_signs(3, 4, 3, 3)
    weight, _ = scaled(signs)
    weight[place] = entry
    expected = F.conv2d(x.double(), weight.double()).float()
    torch.testing.assert_close(binary_conv2d(x, weight), expected, equal_nan=True)


def test_real_weights_are_not_divided():
    x, weight = random_signs(2, 4, 9, 9), torch.randn(3, 4, 3, 3)
    assert torch.equal(binary_conv2d(x, weight), F.conv2d(x, weight))


def test_conv_of_an_empty_batch_is_empty():
    x = torch.ones(0, 4, 5, 6, requires_grad=True)
    weight = torch.ones(3, 4, 3, 3, requires_grad=True)
    y = binary_conv2d(x, weight, padding=1, pad_value=-1)
    assert y.shape == (0, 3, 5, 6)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not weight.grad.any()


@pytest.mark.parametrize('shape', [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_linear_takes_any_number_of_leading_axes(shape):
    x, weight = torch.randn(shape, dtype=torch.float64), random_signs(4, 5).double()
    expected = x.numpy() @ weight.numpy().T
    torch.testing.assert_close(binary_linear(x, weight), torch.from_numpy(expected))


@pytest.mark.parametrize('pad_value', [2, 0.5, None, 'same'])
def test_other_pad_values_are_refused(pad_value):
    x, weight = operands(3, 1)
    with pytest.raises(ValueError, match=f'pad_value={pad_value!r}'):
        binary_conv2d(x, weight, pad_value=pad_value)
    with pytest.raises(ValueError, match=f'pad_value={pad_value!r}'):
        BinaryConv2d(4, 8, 3, pad_value=pad_value)


# gradients -----------------------------------------------------------------------


@pytest.mark.parametrize('pad_value', PAD_VALUES)
@pytest.mark.parametrize(('kernel', 'stride', 'padding', 'dilation', 'groups'), SETTINGS)
def test_conv_gradients_are_those_of_torch(kernel, stride, padding, dilation, groups, pad_value):
    settings = (stride, padding, dilation, groups, pad_value)
    x, weight = (t.requires_grad_() for t in operands(kernel, groups, torch.float64))
    y = binary_conv2d(x, weight, *settings)
    upstream = torch.randn_like(y)
    got = torch.autograd.grad(y, (x, weight), upstream)
    expected = torch.autograd.grad(reference(x, weight, *settings), (x, weight), upstream)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('pad_value', PAD_VALUES)
def test_conv_gradcheck(pad_value):
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 1, 3, 2, dtype=torch.float64, requires_grad=True)

    def function(x, weight):
        return binary_conv2d(x, weight, (2, 1), (1, 2), 1, 2, pad_value)

    assert torch.autograd.gradcheck(function, (x, weight))


@pytest.mark.parametrize('shape', [(3,), (2, 3), (2, 2, 3)])
def test_linear_gradcheck(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(binary_linear, (x, weight))


@pytest.mark.parametrize('wanted', ['input', 'weight'])
@pytest.mark.parametrize('pad_value', PAD_VALUES)
def test_only_the_wanted_gradient_of_a_conv_is_computed(pad_value, wanted):
    x, weight = operands(3, 1, torch.float64)
    leaf = (x if wanted == 'input' else weight).requires_grad_()
    y = binary_conv2d(x, weight, 1, 1, pad_value=pad_value)
    upstream = torch.randn_like(y)
    with Recorder() as mode:
        (got,) = torch.autograd.grad(y, leaf, upstream)
    ((through_x, through_weight, _),) = mode.outputs(torch.ops.aten.convolution_backward.default)
    assert (through_x is None) == (wanted == 'weight')
    assert (through_weight is None) == (wanted == 'input')
    (expected,) = torch.autograd.grad(reference(x, weight, 1, 1, 1, 1, pad_value), leaf, upstream)
    torch.testing.assert_close(got, expected)
    assert (weight if wanted == 'input' else x).grad is None


@pytest.mark.parametrize('wanted', ['input', 'weight'])
def test_only_the_wanted_gradient_of_a_linear_is_computed(wanted):
    x, weight = torch.randn(3, 5), torch.randn(4, 5)
    leaf = (x if wanted == 'input' else weight).requires_grad_()
    y = binary_linear(x, weight)
    upstream = torch.randn_like(y)
    with Recorder() as mode:
        (got,) = torch.autograd.grad(y, leaf, upstream)
    expected = upstream @ weight if wanted == 'input' else upstream.t() @ x
    torch.testing.assert_close(got, expected)
    assert mode.count(torch.ops.aten.mm.default) == 1


# registration --------------------------------------------------------------------


@pytest.mark.parametrize('pad_value', [0.0, -1.0])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_opcheck_of_the_conv(layout, pad_value):
    x = torch.randn(2, 4, 6, 5).to(memory_format=layout).requires_grad_()
    weight = torch.randn(6, 2, 3, 3, requires_grad=True)
    torch.library.opcheck(BINARY_CONV2D, (x, weight, (2, 1), (1, 2), (1, 1), 2, pad_value))


@pytest.mark.parametrize('transposed', [False, True])
def test_opcheck_of_the_linear(transposed):
    x = torch.randn(2, 4, 3).transpose(1, 2) if transposed else torch.randn(2, 3, 4)
    weight = torch.randn(5, 4, requires_grad=True)
    torch.library.opcheck(BINARY_LINEAR, (x.requires_grad_(), weight))


def test_shapes_are_known_on_the_meta_device():
    with torch.device('meta'):
        layer = BinaryConv2d(4, 6, 3, stride=2, padding=1)
        assert layer(torch.zeros(2, 4, 9, 8)).shape == (2, 6, 5, 4)
        assert BinaryLinear(4, 6)(torch.zeros(2, 3, 4)).shape == (2, 3, 6)


def test_a_dispatch_mode_sees_both_operators():
    with Recorder() as mode:
        BinaryConv2d(4, 6, 3)(torch.randn(1, 4, 5, 5))
        BinaryLinear(4, 6)(torch.randn(1, 4))
    assert mode.count(BINARY_CONV2D) == 1
    assert mode.count(BINARY_LINEAR) == 1


@pytest.mark.parametrize('strict', [True, False])
def test_an_exported_graph_names_the_operator(strict):
    layer, x = BinaryConv2d(4, 6, 3).eval(), torch.randn(1, 4, 5, 5)
    program = torch.export.export(layer, (x,), strict=strict)
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count('mmesbnn.binary_conv2d.default') == 1
    assert 'aten.conv2d.default' not in targets
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize(
    ('layer', 'shape'),
    [
        (BinaryConv2d(4, 6, 3), (1, 4, 5, 5)),
        (ESConv2d(4, 6, 3, tau=2), (1, 4, 5, 5)),
        (BinaryLinear(4, 6), (2, 4)),
        (ESLinear(4, 6, tau=2, es_groups=3), (2, 4)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_an_exported_program_can_be_saved(layer, shape, strict):
    layer, x, file = layer.eval(), torch.randn(shape), io.BytesIO()
    torch.export.save(torch.export.export(layer, (x,), strict=strict), file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(x), layer(x))


def compiled_operators(layer, x):
    """Return the names of the operators of a compiled layer, whose result is the same."""
    torch._dynamo.reset()
    names = []

    def record(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.testing.assert_close(torch.compile(layer, backend=record)(x), layer(x))
    return names


@pytest.mark.skipif(torch.__version__ < '2.7', reason='torch does not say whether it exports')
@pytest.mark.parametrize(
    ('layer', 'shape', 'operator'),
    [
        (BinaryConv2d(4, 6, 3, pad_value=-1, padding=1), (1, 4, 5, 5), 'conv2d'),
        (BinaryLinear(4, 6), (2, 4), 'linear'),
    ],
)
def test_a_compiled_graph_has_the_operators_of_torch_which_can_be_fused(layer, shape, operator):
    names = compiled_operators(layer, torch.randn(shape))
    assert any(operator in name for name in names)
    assert not any('mmesbnn' in name for name in names)


class Halved(BinaryConv2d):
    """Layer whose effective weight is not what its binarizer says."""

    def effective_weight(self):
        return self.weight_binarizer(self.weight) / 2


@pytest.mark.skipif(torch.__version__ < '2.7', reason='torch does not say whether it exports')
@pytest.mark.parametrize(
    ('layer', 'shape', 'searches'),
    [
        (BinaryConv2d(4, 6, 3, weight_binarizer='temperature'), (1, 4, 5, 5), False),
        (BinaryConv2d(4, 6, 3, weight_binarizer='scaled_sign'), (1, 4, 5, 5), True),
        (BinaryConv2d(4, 6, 3, weight_binarizer='fixed'), (1, 4, 5, 5), True),
        (Halved(4, 6, 3, weight_binarizer='temperature'), (1, 4, 5, 5), True),
        (BinaryLinear(4, 6, weight_binarizer='temperature'), (2, 4), False),
        (BinaryLinear(4, 6, weight_binarizer='scaled_sign'), (2, 4), True),
        (ShrunkLinear(4, 6, expansion=Expansion(2), weight_binarizer='temperature'), (2, 8), False),
    ],
    ids=str,
)
def test_compiled_code_searches_scales_of_weights_that_can_have_them(layer, shape, searches):
    names = compiled_operators(layer, torch.randn(shape))
    assert any('amax' in name for name in names) == searches


@torch.no_grad()
@pytest.mark.filterwarnings('ignore:.*torch.jit.trace:DeprecationWarning')
@pytest.mark.parametrize(
    ('layer', 'shape', 'name'),
    [
        (BinaryConv2d(4, 6, 3), (1, 4, 5, 5), 'mmesbnn::binary_conv2d'),
        (BinaryLinear(4, 6), (1, 4), 'mmesbnn::binary_linear'),
    ],
)
def test_a_traced_graph_names_the_operator(layer, shape, name):
    x = torch.randn(shape)
    traced = torch.jit.trace(layer.eval(), x)
    assert str(traced.inlined_graph).count(name) == 1
    assert torch.equal(traced(x), layer(x))


# autocast ------------------------------------------------------------------------


def test_autocast_rounds_like_torch_and_keeps_small_sums_exact():
    x, weight = random_signs(2, 28, 6, 6), random_signs(8, 28, 3, 3)  # 252 products
    exact = binary_conv2d(x, weight, padding=1)
    assert exact.dtype == torch.float32
    with torch.autocast('cpu', torch.bfloat16):
        got = binary_conv2d(x, weight, padding=1)
        assert F.conv2d(x, weight).dtype == got.dtype == torch.bfloat16
    assert torch.equal(got.float(), exact)


def test_autocast_of_the_linear_keeps_small_sums_exact():
    x, weight = random_signs(4, 256), random_signs(8, 256)
    exact = binary_linear(x, weight)
    with torch.autocast('cpu', torch.bfloat16):
        got = binary_linear(x, weight)
        assert F.linear(x, weight).dtype == got.dtype == torch.bfloat16
    assert torch.equal(got.float(), exact)


def test_large_sums_under_autocast_have_the_documented_error():
    x, weight = torch.ones(1, 509, 3, 3), torch.ones(509, 509, 3, 3)
    weight.flatten(1).tril_(-1)  # sums of 0 to 508
    exact = binary_conv2d(x, weight).flatten()
    assert torch.equal(exact, torch.arange(509.0))
    with torch.autocast('cpu', torch.bfloat16):
        got = binary_conv2d(x, weight).flatten()
    error = (got.float() - exact).abs() / exact.clamp(min=1)
    assert not error[:257].any()
    assert 2**-9 < error.max() <= 2**-8


def test_autocast_leaves_double_alone_and_can_be_switched_off():
    x, weight = operands(3, 1)
    with torch.autocast('cpu', torch.bfloat16):
        assert binary_conv2d(x.double(), weight.double()).dtype == torch.float64
        assert binary_linear(x.double(), x[0, 0].double()).dtype == torch.float64
        with torch.autocast('cpu', enabled=False):
            assert binary_conv2d(x, weight).dtype == torch.float32


def test_gradients_under_autocast_keep_the_dtype_of_the_operands():
    x, weight = (t.requires_grad_() for t in operands(3, 1))
    with torch.autocast('cpu', torch.bfloat16):
        binary_conv2d(x, weight, padding=1).float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32
    (expected,) = torch.autograd.grad(F.conv2d(x, weight, padding=1).sum(), weight)
    torch.testing.assert_close(weight.grad, expected, rtol=2**-8, atol=1)


def test_low_precision_operands_give_low_precision_results():
    x, weight = (t.bfloat16() for t in operands(3, 1))
    got = binary_conv2d(x, weight, padding=1)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, sign(got) * got.abs())
    assert torch.equal(got.float(), F.conv2d(x.float(), weight.float(), padding=1))
