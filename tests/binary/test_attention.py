"""Binary attention and feed-forward equal their formulas; ES keeps the cost."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import (
    BinaryFeedForward,
    BinaryMultiheadAttention,
    ResidualBinaryLinear,
    TiledBatchNorm2d,
    binary_matmul,
    centred_sign_weight,
    sign,
    tile,
)
from mmesbnn.binary.operators import BINARY_MATMUL
from mmesbnn.binary.unit_steps import normalized_tokens
from tests.binary.operators import Recorder

# (expanded_in, expanded_out)
EXPANDED = [(False, False), (False, True), (True, False), (True, True)]


def tokens(*shape):
    return torch.randn(shape, dtype=torch.double)


def randomised(module):
    """Return a float64 model in eval mode; all parameters and statistics are random."""
    module = module.double().eval()
    for name, tensor in module.state_dict().items():
        if name.endswith('running_var'):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and tensor.dim():
            tensor.uniform_(-1, 1.5)
    return module


# product --------------------------------------------------------------------------


def test_matmul_is_a_batched_product_with_its_gradients():
    a, b = (tokens(*s).requires_grad_() for s in [(2, 3, 4, 5), (2, 3, 5, 6)])
    with Recorder() as seen:
        y = binary_matmul(a, b)
    assert seen.count(BINARY_MATMUL) == 1
    torch.testing.assert_close(y, torch.einsum('nhlk,nhkm->nhlm', a, b))
    assert torch.autograd.gradcheck(binary_matmul, (a, b))
    assert torch.autograd.gradcheck(binary_matmul, (a.detach(), b))


def test_matmul_of_signs_is_exact_under_autocast():
    a, b = sign(torch.randn(2, 7, 64)), sign(torch.randn(2, 64, 9)).mT.contiguous().mT
    with torch.autocast('cpu', torch.bfloat16):
        y = binary_matmul(a, b)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y.float(), a @ b)


def test_matmul_has_a_fake():
    with FakeTensorMode():
        y = binary_matmul(torch.empty(2, 3, 4), torch.empty(2, 4, 7))
    assert y.shape == (2, 3, 7)


@pytest.mark.parametrize('shape', [(2, 5, 4), (3, 4, 6), (4, 6)])
def test_matmul_broadcasts_nothing(shape):
    with pytest.raises(ValueError, match=r'a is \(2, 3, 4\), b is'):
        binary_matmul(torch.ones(2, 3, 4), torch.ones(shape))


@pytest.mark.parametrize(('a', 'b'), [((4,), (4,)), ((), ()), ((3, 4), (4,)), ((4,), (4, 3))])
def test_matmul_takes_matrices_only(a, b):
    with pytest.raises(ValueError, match='they cannot be multiplied'):
        binary_matmul(torch.ones(a), torch.ones(b))


class Product(torch.nn.Module):
    def forward(self, x):
        return binary_matmul(x, x.mT)


@pytest.mark.parametrize(
    'values, message',
    [
        ([1.0, -1.0], None),
        ([0.0, 0.5], None),
        ([0.5, 0.5], None),
        ([-1.0, 0.0, 1.0], 'takes 3 values'),
        ([1.0, 0.5], 'takes the values 0.5 and 1'),
        ([1.0, float('nan')], 'not finite'),
    ],
)
def test_what_is_not_binary_in_a_product_is_found(values, message):
    findings = check_binary(Product(), torch.tensor([[values]]))
    assert [message in str(finding) for finding in findings] == [True] * bool(message)


def test_a_product_is_counted_as_binary():
    (layer,) = count_ops(Product(), (3, 5)).layers
    assert (layer.kind, layer.bops, layer.taps) == ('binary', 3 * 3 * 5, 5)


# one unit -------------------------------------------------------------------------


def unit_by_hand(unit, x, residual):
    tau, norm, act = unit.linear.expansion.tau, unit.norm, unit.act
    if x.shape[-1] != unit.linear.in_features:
        x = torch.cat([x] * tau, -1)
    y = sign(x + unit.shift.bias) @ centred_sign_weight(unit.linear.weight).t()
    y = torch.cat([y] * (norm.num_features // y.shape[-1]), -1)
    y = (y - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    y = y * norm.weight + norm.bias + residual + act.shift_in.bias
    return torch.where(y > 0, y, act.slope * y) + act.shift_out.bias


@pytest.mark.parametrize('expanded_in, expanded_out', EXPANDED)
@pytest.mark.parametrize('tau', [1, 2])
def test_unit_is_its_formula(tau, expanded_in, expanded_out):
    unit = randomised(ResidualBinaryLinear(8, 12, tau, expanded_in, expanded_out))
    assert unit.linear.weight.shape == (12 // tau, 8 * tau)
    x = tokens(2, 5, 8 * tau if expanded_in else 8)
    residual = tokens(2, 5, 12 * tau if expanded_out else 12)
    got = unit(x, residual)
    torch.testing.assert_close(got, unit_by_hand(unit, x, residual))
    unit.train()
    assert unit(x, residual).shape == got.shape


def test_a_residual_is_tiled():
    unit, x = randomised(ResidualBinaryLinear(8, 12, 2, expanded_out=True)), tokens(2, 5, 8)
    residual = tokens(2, 5, 4)
    expected = unit_by_hand(unit, x, torch.cat(6 * [residual], -1))
    torch.testing.assert_close(unit(x, residual, 6), expected)
    for copies in (5, 0, -1):
        with pytest.raises(ValueError, match=f'residual_copies={copies} must divide 24 features'):
            unit(x, residual, copies)
    with pytest.raises(ValueError, match=r'the residual must be .* \(N, L, 8\)'):
        unit(x, residual, 3)


@pytest.mark.parametrize('expanded_in, equal', [(False, 2), (True, 4)])
def test_thresholds_of_copies_start_apart(expanded_in, equal):
    unit = ResidualBinaryLinear(8, 8, 2, expanded_in, spread=0.3)
    copies = unit.shift.bias.detach().view(equal, -1)
    assert (copies == copies[:, :1]).all()
    expected = torch.linspace(-0.3, 0.3, equal)
    torch.testing.assert_close(copies[:, 0], expected)
    # so copies of one input have different signs
    signed = sign(tile(torch.full((16 // equal,), 0.01), equal, -1) + copies.flatten())
    assert len(signed.unique()) == 2


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(tau=5), 'tau=5 does not divide out_features=8'),
        (dict(tau=4, expanded_in=True), 'tau=4 does not divide in_features=6'),
        (dict(sign=dict(type='quadratic', zero=1)), 'zero=1'),
    ],
)
def test_bad_units_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResidualBinaryLinear(6, 8, **options)


# attention ------------------------------------------------------------------------


def to_map(x, size):
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *size)


def to_tokens(x):
    return x.reshape(*x.shape[:2], -1).transpose(1, 2)


def attention_by_hand(layer, x, size, ratio, tau=1):
    """Compute attention for sizes that ``ratio`` divides."""

    def mean(x):
        return sum(x.chunk(tau, -1)) / tau

    q = layer.query(x, mean(x))
    z, narrow = x, mean(x)
    if ratio > 1:
        pooled = to_tokens(F.avg_pool2d(to_map(x, size), ratio))
        z = narrow = layer.reduction(pooled, mean(pooled))
    k, v = layer.key(z, narrow), layer.value(z, narrow)
    heads = []
    for head in range(layer.num_heads):
        d = layer.embed_dims // layer.num_heads
        own = slice(head * d, (head + 1) * d)
        signs = (
            sign(x[..., own] + layer.get_submodule(f'{n}_sign').shift.bias[own])
            for n, x in (('query', q), ('key', k), ('value', v))
        )
        query, key, value = signs
        p = (query @ key.mT / math.sqrt(d)).softmax(-1)
        heads.append(torch.where(p / layer.clip > 0.5, layer.clip, 0.0) @ value)
    context, norm, act = torch.cat(heads, -1), layer.norm, layer.act
    context = (context - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    context = context * norm.weight + norm.bias + q
    for part in (k, v):
        for axis in (2, 3):
            part = to_map(part, [n // ratio for n in size]) if axis == 2 else part
            part = part.repeat_interleave(ratio, axis)
        context = context + to_tokens(part)
    context = context + act.shift_in.bias
    context = torch.where(context > 0, context, act.slope * context)
    context = context + act.shift_out.bias
    return layer.output(context, torch.cat([context] * tau, -1))


@pytest.mark.parametrize('tau', [1, 2])
@pytest.mark.parametrize('ratio', [1, 2])
def test_attention_is_its_formula(ratio, tau):
    layer = randomised(BinaryMultiheadAttention(12, 3, ratio, tau))
    x, size = tokens(2, 24, 12 * tau), (4, 6)
    threshold = ratio**2 / 24  # probability of a key if all have the same
    layer.clip.data.fill_(2 * threshold)
    with Recorder() as seen:
        got = layer(x, size)
    torch.testing.assert_close(got, attention_by_hand(layer, x, size, ratio, tau))
    probabilities = seen.outputs(torch.ops.aten._softmax.default)[0]
    share = (probabilities > threshold).double().mean().item()
    assert 0.1 < share < 0.9


def test_tokens_need_no_size_without_reduction():
    layer = randomised(BinaryMultiheadAttention(8, 2))
    x = tokens(1, 7, 8)
    assert torch.equal(layer(x), layer(x, (7, 1)))


@pytest.mark.parametrize('training', [False, True])
def test_no_tokens_give_none(training):
    x = torch.zeros(0, 9, 8, requires_grad=True)
    y = BinaryMultiheadAttention(8, 2).train(training)(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_keys_masked_by_the_bias_do_not_count():
    layer = randomised(BinaryMultiheadAttention(8, 2))
    layer.clip.data.fill_(0.1)
    x = tokens(2, 7, 8)
    bias = tokens(2, 7, 7)  # heads, queries, keys
    bias[..., 5:] = -1e9
    short = layer(x[:, :5], bias=bias[:, :5, :5])
    torch.testing.assert_close(layer(x, bias=bias)[:, :5], short)
    assert not torch.allclose(layer(x)[:, :5], short)


def test_size_need_not_be_divisible_by_the_reduction():
    layer = BinaryMultiheadAttention(8, 2, sr_ratio=4)
    assert layer(torch.randn(2, 15, 8), (3, 5)).shape == (2, 15, 8)


@pytest.mark.parametrize('size', [None, (4, 4)])
def test_reduction_needs_the_size(size):
    layer = BinaryMultiheadAttention(8, 2, sr_ratio=2)
    with pytest.raises(ValueError, match='height and width of 8 tokens'):
        layer(torch.randn(1, 8, 8), size)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(num_heads=3), 'num_heads=3 does not divide embed_dims=8'),
        (dict(sr_ratio=0), 'sr_ratio=0'),
        (dict(clip=0.0), 'clip=0.0 must be a finite number > 0'),
        (dict(tau=3), 'tau=3 does not divide'),
    ],
)
def test_bad_attention_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BinaryMultiheadAttention(**{'embed_dims': 8, 'num_heads': 2, **options})


@pytest.mark.parametrize(
    'layer, name',
    [
        (BinaryMultiheadAttention, 'es_groups'),
        (BinaryMultiheadAttention, 'zero'),
        (BinaryFeedForward, 'zero'),
    ],
)
def test_unknown_options_are_refused(layer, name):
    with pytest.raises(TypeError, match=f"'{name}'"):
        layer(8, 8, **{name: 2})


@pytest.mark.parametrize('ratio', [1, 2])
@pytest.mark.parametrize('tau', [1, 2])
def test_every_parameter_of_attention_gets_a_gradient(ratio, tau):
    layer = BinaryMultiheadAttention(8, 2, ratio, tau, clip=0.05)
    layer(torch.randn(2, 16, 8 * tau), (4, 4)).square().sum().backward()
    none = [name for name, p in layer.named_parameters() if not p.grad.any()]
    assert none == []


# feed-forward ---------------------------------------------------------------------


def feed_forward_by_hand(layer, x, copies, pool):
    hidden = layer.up(x, torch.cat([x] * copies, -1))
    groups = hidden.reshape(*hidden.shape[:2], *pool)
    return layer.down(hidden, groups.mean(-1 if pool[0] == -1 else -2))


@pytest.mark.parametrize('mode', ['adjacent', 'replica'])
@pytest.mark.parametrize('expanded', [False, True])
@pytest.mark.parametrize('tau', [1, 2])
def test_feed_forward_is_its_formula(tau, expanded, mode):
    layer = randomised(BinaryFeedForward(4, 12, tau, expanded, mode))
    assert layer.up.linear.weight.shape == (12 // tau, 4 * tau)
    assert layer.down.linear.weight.shape == (4 // tau, 12 * tau)
    x = tokens(2, 5, 4 * tau if expanded else 4)
    copies = 3 if expanded else 3 * tau
    pool = (-1, copies) if mode == 'adjacent' else (copies, x.shape[-1])
    expected = feed_forward_by_hand(layer, x, copies, pool)
    torch.testing.assert_close(layer(x), expected)
    assert layer(x).shape == x.shape


def test_replica_pooling_undoes_tiling_and_adjacent_does_not():
    x = tokens(1, 3, 4)
    for mode in ('replica', 'adjacent'):
        layer = BinaryFeedForward(4, 12, residual_pool=mode)
        pooled = layer._pool(tile(x, 3, -1))
        assert torch.allclose(pooled, x) == (mode == 'replica')


@pytest.mark.parametrize('expanded', [False, True])
def test_multiplications_do_not_depend_on_tau(expanded):
    reports = [
        count_ops(BinaryFeedForward(8, 16, tau, expanded), (6, 8 * width)).total
        for tau, width in ((1, 1), (2, 2 if expanded else 1), (4, 4 if expanded else 1))
    ]
    for key in ('bops', 'fp_macs', 'binary_params'):
        assert len({report[key] for report in reports}) == 1


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(feedforward_dims=12), 'embed_dims=8 does not divide feedforward_dims'),
        (dict(residual_pool='mean'), "residual_pool='mean'"),
        (dict(tau=16), 'tau=16 does not divide'),
    ],
)
def test_bad_feed_forward_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BinaryFeedForward(**{'embed_dims': 8, 'feedforward_dims': 16, **options})


# a host ---------------------------------------------------------------------------


def test_attention_of_another_transformer_can_be_replaced():
    mmpretrain = pytest.importorskip('mmpretrain.models')
    from mmengine.registry import MODELS

    vit = mmpretrain.VisionTransformer(
        dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
    )
    for layer in vit.layers:
        layer.attn = MODELS.build(dict(type='BinaryMultiheadAttention', embed_dims=16, num_heads=2))
    (out,) = vit(torch.randn(2, 3, 32, 32))
    out.sum().backward()
    assert vit.layers[0].attn.clip.grad is not None


@pytest.mark.parametrize('tau', [1, 2])
@pytest.mark.parametrize('expanded_in', [False, True])
@pytest.mark.parametrize('expanded_out', [False, True])
def test_unit_with_groups_is_its_formula(tau, expanded_in, expanded_out):
    groups = 2
    unit = randomised(ResidualBinaryLinear(8, 12, tau, expanded_in, expanded_out, es_groups=groups))
    weight = unit.linear.effective_weight()
    assert weight.shape == (12 // tau, 8 * tau)
    factor, copies = tau * groups, tau * tau * groups if expanded_out else tau
    x = tokens(2, 5, 8 * factor if expanded_in else 8)
    residual = tokens(2, 5, 12 * factor if expanded_out else 12)
    wide = x if expanded_in else torch.cat([x] * factor, -1)
    signs = torch.where(wide + unit.shift.bias > 0, 1.0, -1.0).to(x.dtype)
    halves = [part @ kernels.t() for part, kernels in zip(signs.chunk(2, -1), weight.chunk(2))]
    tiled = torch.cat([torch.cat(halves, -1)] * copies, -1)
    norm, act = unit.norm, unit.act
    mean, var = tiled.mean((0, 1)), tiled.var((0, 1), unbiased=False)
    y = (tiled - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias + residual
    y = y + act.shift_in.bias
    y = torch.where(y > 0, y, act.slope * y) + act.shift_out.bias
    torch.testing.assert_close(unit.train()(x, residual), y)


def test_multiplications_and_weights_do_not_depend_on_groups():
    totals = [
        count_ops(BinaryFeedForward(8, 16, tau, es_groups=groups), (6, 8)).total
        for tau, groups in ((1, 1), (1, 2), (2, 2), (1, 4))
    ]
    assert len({(total['bops'], total['binary_params']) for total in totals}) == 1


def test_copies_of_groups_start_apart():
    layer = BinaryFeedForward(4, 8, 1, es_groups=2, spread=0.5)
    assert layer.up.shift.bias.flatten().tolist() == [-0.5] * 4 + [0.5] * 4


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match='groups=3 does not divide'):
        BinaryFeedForward(8, 16, 2, es_groups=3)


@pytest.mark.parametrize('copies', [1, 2])
@pytest.mark.parametrize('transposed', [False, True])
def test_gradients_of_normalised_tokens(copies, transposed):
    norm = TiledBatchNorm2d(4 * copies, copies).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 4 * copies, 5, dtype=torch.float64).mT
    if not transposed:
        upstream = upstream.contiguous()
    y = normalized_tokens(x, norm, copies)
    (got,) = torch.autograd.grad(y, x, upstream)
    var, mean = torch.var_mean(x, (0, 1), correction=0)
    expected = ((x - mean) / (var + norm.eps).sqrt()).repeat(1, 1, copies)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(got, torch.autograd.grad(expected, x, upstream)[0])
