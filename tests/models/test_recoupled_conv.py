"""BNext's module equals its formula, also with float layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmesbnn.binary import Expansion
from mmesbnn.models.layers import recoupled_conv
from mmesbnn.models.layers.float_layers import PooledProjection, Stem, convolve_pixel, float_conv
from mmesbnn.models.layers.minmax import MinMaxConv2d, minmax_quantize, quantize_weight
from mmesbnn.models.layers.pooling import AveragePool
from mmesbnn.models.layers.recoupled_conv import RecoupledConv, SqueezeExcite
from tests.binary.operators import CONVOLUTIONS, Recorder, with_kernels, without_kernels
from tests.native.signs import needs_kernels

FACTORS = [(1, 1), (2, 1), (1, 2), (2, 2)]
CHANNELS = 16


def double(*shape):
    return torch.randn(shape, dtype=torch.float64)


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def randomize(module):
    """Give every parameter and running statistic a random value."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.8)
        for name, buffer in module.named_buffers():
            if name.endswith('running_mean'):
                buffer.normal_()
            elif name.endswith('running_var'):
                buffer.uniform_(0.5, 2)
    return module.double()


# the formula, spelled out --------------------------------------------------------


def copies(x, count):
    return torch.cat([x] * count, 1)


def grouped_conv(x, weight, groups, bias=None, **options):
    outputs = [
        F.conv2d(part, kernels, **options)
        for part, kernels in zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)
    ]
    y = torch.cat(outputs, 1)
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def prelu(x, slope):
    return torch.where(x > 0, x, slope.view(1, -1, 1, 1) * x)


def batch_norm(x, norm, training):
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    else:
        mean, var = norm.running_mean, norm.running_var
    shape = (1, -1, 1, 1)
    x = (x - mean.view(shape)) / (var + norm.eps).sqrt().view(shape)
    return x * norm.weight.view(shape) + norm.bias.view(shape)


def pool(x):
    """Return means of up to 2x2 pixels, fewer at an odd edge."""
    ones = F.pad(torch.ones_like(x), (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    return F.avg_pool2d(x, 2) / F.avg_pool2d(ones, 2)


def gate(x, se, tau, groups, shrink):
    x = x.mean((2, 3), keepdim=True)
    if not shrink:
        groups, count = 1, 1
    else:
        count = tau * tau * groups
    for conv, act in ((se.squeeze, torch.relu), (se.excite, torch.sigmoid)):
        x = act(copies(grouped_conv(x, conv.weight, groups, conv.bias), count))
    return x


def project(x, layer, tau, groups, shrink, training):
    x = pool(x) if isinstance(layer.pool, nn.AvgPool2d) else x
    if not shrink:
        return batch_norm(F.conv2d(x, layer.conv.weight), layer.norm, training)
    x = grouped_conv(x, layer.conv.weight, groups)
    return batch_norm(copies(x, tau * tau * groups), layer.norm, training)


def recoupled(x, layer, tau, groups, shrink, *, stride, elementwise, mix_residual):
    training = layer.training
    pooled = pool(x) if stride == 2 else x
    residual = prelu(x, layer.act_in.weight) if elementwise else x
    if layer.projection is not None:
        residual = project(residual, layer.projection, tau, groups, shrink, training)
    elif stride == 2:
        residual = pool(residual)
    signs = torch.where(x + layer.shift.bias > 0, 1.0, -1.0).double()
    kernel = layer.conv.weight.shape[-1]
    y = grouped_conv(
        signs, layer.conv.weight.clamp(-1, 1), groups, stride=stride, padding=kernel // 2
    )
    y = batch_norm(copies(y, tau * tau * groups), layer.norm1, training)
    y = prelu(y, layer.act.weight)
    mixed = layer.mix * (residual if mix_residual else pooled) + (1 - layer.mix) * y
    z = gate(mixed, layer.se, tau, groups, shrink) * y
    if elementwise:
        z = z * residual
    return residual + batch_norm(z, layer.norm2, training)


def build(kernel=3, stride=1, out=None, *, tau=1, groups=1, shrink=True, **options):
    return RecoupledConv(
        CHANNELS,
        kernel,
        stride,
        out,
        **options,
        expansion=Expansion(tau, groups),
        shrink=shrink,
        se_ratio=4,
        se_bits=None,
        conv=dict(sign=dict(type='hard_tanh', clip=1.5), weight_binarizer='temperature'),
        norm=dict(),
    )


def check_formula(layer, tau, groups, shrink, stride, elementwise, mix_residual, size):
    layer = randomize(layer)
    x = double(2, CHANNELS * tau * groups, *size)
    for training in (False, True):
        layer.train(training)
        expected = recoupled(
            x,
            layer,
            tau,
            groups,
            shrink,
            stride=stride,
            elementwise=elementwise,
            mix_residual=mix_residual,
        )
        assert_same(layer(x), expected)


@pytest.mark.parametrize(
    ('kernel', 'stride', 'elementwise'),
    [(3, 1, True), (3, 2, True), (3, 1, False), (3, 2, False), (1, 1, False)],
)
@pytest.mark.parametrize('shrink', [True, False])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_formula(tau, groups, shrink, kernel, stride, elementwise):
    layer = build(kernel, stride, tau=tau, groups=groups, shrink=shrink, elementwise=elementwise)
    check_formula(layer, tau, groups, shrink, stride, elementwise, False, (4, 6))


@pytest.mark.parametrize('elementwise', [True, False])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('shrink', [True, False])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_formula_with_a_projection(tau, groups, shrink, stride, elementwise):
    options = dict(elementwise=elementwise, mix_residual=True)
    layer = build(3, stride, 2 * CHANNELS, tau=tau, groups=groups, shrink=shrink, **options)
    check_formula(layer, tau, groups, shrink, stride, elementwise, True, (4, 6))


@pytest.mark.parametrize('mix_residual', [True, False])
def test_formula_at_odd_sizes(mix_residual):
    layer = build(3, 2, tau=2, elementwise=True, mix_residual=mix_residual)
    check_formula(layer, 2, 1, True, 2, True, mix_residual, (5, 7))


def test_mixing_the_residual_differs_where_there_is_a_prelu():
    plain, mixing = (build(elementwise=True, mix_residual=m) for m in (False, True))
    mixing.load_state_dict(randomize(plain).state_dict())
    x = torch.randn(2, CHANNELS, 4, 4)
    assert not torch.allclose(plain.float()(x), mixing(x))


def test_surrogate_gradient_reaches_shift_and_latent_weights():
    layer = build(3, tau=2).double()
    x = double(2, 2 * CHANNELS, 4, 4).mul(2).requires_grad_()
    # the binary branch alone: keep the gate and the residual out of the gradient
    y = layer.conv(layer.shift(x))
    upstream = torch.randn_like(y)
    bias, through_x = torch.autograd.grad(y, (layer.shift.bias, x), upstream)
    weight = layer.conv.weight.clamp(-1, 1)
    arrived = F.conv_transpose2d(upstream, weight, padding=1)
    expected = arrived * (x.abs() <= 1.5)
    assert_same(through_x, expected)
    assert_same(bias, expected.sum((0, 2, 3), keepdim=True))


def test_initial_state():
    torch.manual_seed(1)
    layer = build(3, tau=2, elementwise=True)
    assert layer.conv.weight.std().item() == pytest.approx(1e-3, rel=0.1)
    assert (layer.mix == 0.5).all()
    assert not layer.shift.bias.any()
    assert layer.conv.weight_binarizer.temperature == 1
    assert layer.parameter_bounds == {'mix': (0.0, 1.0)}


@pytest.mark.parametrize(('tau', 'groups'), FACTORS[1:])
def test_kernels_cost_what_they_cost_without_expansion(tau, groups):
    wide, narrow = (
        build(3, 2, 2 * CHANNELS, tau=t, groups=g, mix_residual=True)
        for t, g in ((tau, groups), (1, 1))
    )
    sizes = {name: p.numel() for name, p in narrow.named_parameters() if p.dim() == 4}
    kernels = [name for name in sizes if name.endswith('weight')]
    assert len(kernels) == 4
    for name in kernels:
        assert wide.get_parameter(name).numel() == sizes[name], name


def test_unused_prelus_do_not_exist():
    names = {name for name, _ in build(elementwise=False).named_parameters()}
    assert not any(name.startswith('act_in') for name in names)
    assert len([name for name in names if 'act' in name]) == 1


def test_every_parameter_gets_a_gradient():
    layer = build(3, 2, 2 * CHANNELS, tau=2, elementwise=True, mix_residual=True)
    layer(torch.randn(2, 2 * CHANNELS, 4, 4)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(tau=3), 'tau=3 does not divide out_channels=16'),
        (dict(groups=3), 'groups=3 does not divide out_channels'),
        (dict(tau=8), r'tau=8 does not divide channels // se_ratio = 16 // 4=4'),
        (dict(out=32, elementwise=True), 'out_channels=32.*needs mix_residual=True'),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def results(layer, x, upstream):
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    operands = {'x': leaf, **dict(layer.named_parameters())}
    grads = torch.autograd.grad(y, tuple(operands.values()), upstream)
    return dict(zip(operands, grads), y=y.detach())


@needs_kernels
@pytest.mark.parametrize('size', [(4, 6), (5, 6), (7, 7)])
@pytest.mark.parametrize('mix_residual', [True, False])
@pytest.mark.parametrize(('stride', 'elementwise'), [(1, False), (1, True), (2, False), (2, True)])
def test_the_kernels_give_the_same(stride, elementwise, mix_residual, size):
    layer = build(3, stride, tau=2, elementwise=elementwise, mix_residual=mix_residual)
    layer = randomize(layer).float()
    layer.conv.weight_binarizer.temperature.zero_()
    x = torch.randn(2, 2 * CHANNELS, *size)
    upstream = torch.randn_like(layer(x))
    expected = without_kernels(results, layer.double(), x.double(), upstream.double())
    found = with_kernels(results, layer.float(), x, upstream)
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=2e-4, msg=name)


@needs_kernels
def test_a_gate_needs_no_pooling_of_its_own(monkeypatch):
    seen = []
    layer = build(3, 2, elementwise=True)
    layer.conv.weight_binarizer.temperature.zero_()
    monkeypatch.setattr(AveragePool, 'forward', lambda self, x: seen.append('pool') or x[..., ::2])
    monkeypatch.setattr(recoupled_conv, 'position_mean', lambda x: seen.append('mean') or x)
    with_kernels(layer, torch.randn(2, CHANNELS, 4, 6, requires_grad=True))
    assert seen == ['mean']  # the gate's, of one pixel


@needs_kernels
def test_hooks_of_a_pooling_run():
    layer, seen = build(3, 2, elementwise=True), []
    for name in ('pool', 'act_in', 'se.squeeze', 'se.excite'):
        layer.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    with_kernels(layer, torch.randn(2, CHANNELS, 4, 6, requires_grad=True))
    assert seen == ['act_in', 'pool', 'pool', 'se.squeeze', 'se.excite']


# squeeze and excite --------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize('bias', [True, False])
def test_a_convolution_of_one_pixel_is_a_product(bias, monkeypatch):
    conv = nn.Conv2d(6, 4, 1, bias=bias)
    x, upstream = torch.randn(3, 6, 1, 1, requires_grad=True), torch.randn(3, 4, 1, 1)
    operands, expected = (x, *conv.parameters()), conv(x)
    monkeypatch.setattr(nn.Conv2d, 'forward', None)
    y = with_kernels(convolve_pixel, conv, x)
    for ours, theirs in zip(
        (y, *torch.autograd.grad(y, operands, upstream)),
        (expected, *torch.autograd.grad(expected, operands, upstream)),
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    for called in (without_kernels, lambda f, *args: with_kernels(f, args[0].eval(), args[1])):
        with pytest.raises(TypeError):
            called(convolve_pixel, conv, x)


@needs_kernels
def test_convolutions_of_one_pixel_that_are_called():
    x, called = torch.randn(3, 6, 1, 1, requires_grad=True), []
    hooked, grouped, plain = (nn.Conv2d(6, 4, 1, groups=g) for g in (1, 2, 1))
    hooked.register_forward_pre_hook(lambda *_: called.append('own'))
    for conv in (hooked, grouped):
        assert torch.equal(with_kernels(convolve_pixel, conv, x), conv(x))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: called.append('global'))
    try:
        with_kernels(convolve_pixel, plain, x)
    finally:
        handle.remove()
    assert called == ['own', 'own', 'global']
    with Recorder() as seen:
        with_kernels(convolve_pixel, plain, x)
    assert seen.count(*CONVOLUTIONS) == 1


@pytest.mark.parametrize('shrink', [True, False])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_gate_formula(tau, groups, shrink):
    layer = randomize(SqueezeExcite(CHANNELS, Expansion(tau, groups), shrink, 4))
    x = double(2, CHANNELS * tau * groups, 3, 5)
    got = layer(x)
    assert got.shape == (2, CHANNELS * tau * groups, 1, 1)
    assert_same(got, gate(x, layer, tau, groups, shrink))


@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_gate_shapes(tau, groups):
    expansion, wide = Expansion(tau, groups), CHANNELS * tau * groups
    shrunk = SqueezeExcite(CHANNELS, expansion, True, 4)
    assert shrunk.squeeze.weight.shape == (4 // tau, CHANNELS * tau, 1, 1)
    assert shrunk.excite.weight.shape == (CHANNELS // tau, 4 * tau, 1, 1)
    full = SqueezeExcite(CHANNELS, expansion, False, 4)
    assert full.squeeze.weight.shape == (4, wide, 1, 1)
    assert full.excite.weight.shape == (wide, 4, 1, 1)


def test_gate_of_few_bits():
    layer = SqueezeExcite(CHANNELS, Expansion(2), True, 4, bits=2).double()
    x = double(2, 2 * CHANNELS, 3, 3).mean((2, 3), keepdim=True)
    expected = x
    for conv, act in ((layer.squeeze, torch.relu), (layer.excite, torch.sigmoid)):
        assert isinstance(conv, MinMaxConv2d)
        quantized = minmax_quantize(expected, 2, 1000.0, dims=3)
        y = F.conv2d(quantized, quantize_weight(conv.weight, 2, 1000.0), conv.bias)
        expected = act(copies(y, 4))
    assert_same(layer(x), expected)


def test_a_ratio_that_leaves_no_channel_is_refused():
    with pytest.raises(ValueError, match='se_ratio=32 leaves no channel of channels=16'):
        SqueezeExcite(CHANNELS, Expansion(), True, 32)


@pytest.mark.parametrize(
    ('tau', 'groups', 'message'),
    [
        (8, 1, 'tau=8 does not divide channels // se_ratio = 16 // 4=4'),
        (2, 4, r'groups=4 does not divide channels // se_ratio = 16 // 4 / tau'),
    ],
)
def test_gates_that_cannot_shrink_are_refused(tau, groups, message):
    with pytest.raises(ValueError, match=message):
        SqueezeExcite(CHANNELS, Expansion(tau, groups), True, 4)
    SqueezeExcite(CHANNELS, Expansion(tau, groups), False, 4)


# float layers --------------------------------------------------------------------


@pytest.mark.parametrize('height', [4, 5])
@pytest.mark.parametrize('width', [6, 7])
def test_average_pool_keeps_the_last_row_and_column(height, width):
    x = double(2, 3, height, width)
    y = AveragePool()(x)
    assert y.shape == F.conv2d(x, double(3, 3, 3, 3), stride=2, padding=1).shape
    assert_same(y, pool(x))
    corner = x[:, :, 2 * (y.shape[2] - 1) :, 2 * (y.shape[3] - 1) :]
    assert_same(y[:, :, -1, -1], corner.mean((2, 3)))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shrink', [True, False])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_projection_formula(tau, groups, stride, shrink, training):
    layer = PooledProjection(4, 8, stride, Expansion(tau, groups), shrink, dict(eps=0.1))
    layer = randomize(layer).train(training)
    x = double(2, 4 * tau * groups, 4, 5)
    assert_same(layer(x), project(x, layer, tau, groups, shrink, training))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(('kernel', 'stride', 'max_pool'), [(3, 2, False), (7, 1, True)])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_stem_formula(tau, groups, kernel, stride, max_pool, training):
    expansion = Expansion(tau, groups)
    layer = Stem(3, 4, kernel, stride, max_pool, expansion, dict(eps=0.1))
    layer = randomize(layer).train(training)
    x = double(2, 3, 8, 9)
    small = F.conv2d(x, layer.conv.weight, stride=stride, padding=kernel // 2)
    expected = batch_norm(copies(small, tau * groups), layer.norm, training)
    if max_pool:
        expected = F.max_pool2d(expected, 3, 2, 1)
    assert_same(layer(x), expected)


def test_the_kernel_of_a_stem_is_square():
    with pytest.raises(ValueError, match=r'kernel_size=\(3, 3\) must be an integer >= 1'):
        Stem(3, 4, (3, 3), 1, False, Expansion(), {})


def test_stem_of_few_bits_takes_the_image_as_it_is():
    layer = Stem(4, 8, 3, 2, False, Expansion(2), {}, bits=2).double().eval()
    x = double(2, 4, 8, 9)
    weight = quantize_weight(layer.conv.weight, 2, 1000.0)
    small = F.conv2d(x, weight, stride=2, padding=1)
    assert_same(layer(x), batch_norm(copies(small, 2), layer.norm, False))


def test_float_conv_has_the_bits_it_is_asked_for():
    plain = float_conv(4, 6, 3, groups=2, padding=1)
    assert type(plain) is nn.Conv2d
    assert plain.weight.shape == (6, 2, 3, 3)
    quantized = float_conv(4, 6, 3, groups=2, bits=4, padding=1)
    assert isinstance(quantized, MinMaxConv2d)
    assert (quantized.mac_bits, quantized.groups, quantized.padding) == (4, 2, (1, 1))
