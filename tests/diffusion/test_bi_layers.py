"""The blocks of BI-DiffSR, plain and expanded, equal their formulas."""

import pytest
import torch
import torch.nn.functional as F

from mmesbnn.binary import Expansion, scaled_sign_weight, sign, tile
from mmesbnn.diffusion.bi_layers import (
    Attention,
    BIConv,
    CPDown,
    CPUp,
    ResBlock,
    TimestepRPReLU,
    TimestepShift,
    contract,
    halves,
    join,
    shuffle,
)
from mmesbnn.diffusion.bi_levels import CSFusion
from tests.defaults import torch_default, with_other_defaults

BANK = torch.tensor([1, 0, 2])


def options(tau=1, groups=1, banks=3, spread=0.5):
    kinds = dict(sign='quadratic', weight_binarizer='scaled_sign')
    return dict(banks=banks, expansion=Expansion(tau, groups), spread=spread, **kinds)


def maps(channels, n=3, size=(4, 6)):
    return torch.randn(n, channels, *size, dtype=torch.double)


def randomise(module):
    module.double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


# ------------------------------------------------------------------ copies


def test_splitting_and_joining_keep_to_a_copy():
    # channel c of copy k holds 10 k + c
    x = (10 * torch.arange(2)[:, None] + torch.arange(4)).flatten().view(1, 8, 1, 1)
    first, second = halves(x, 2)
    assert first.flatten().tolist() == [0, 1, 10, 11]
    assert second.flatten().tolist() == [2, 3, 12, 13]
    assert torch.equal(join(first, second, 2), x)
    odd_even, even_odd = shuffle(x, 100 + x, 2)
    assert odd_even.flatten().tolist() == [1, 3, 100, 102, 11, 13, 110, 112]
    assert even_odd.flatten().tolist() == [0, 2, 101, 103, 10, 12, 111, 113]
    assert contract(x.double(), 2).flatten().tolist() == [5, 6, 7, 8]
    assert contract(x, 1) is x


def test_contracting_undoes_tiling():
    x = maps(4)
    assert_same(contract(tile(x, 3), 3), x)


# ------------------------------------------------------------------ banks


def test_shift_of_every_image_is_its_banks():
    shift = randomise(TimestepShift(4, 3, copies=2))
    x = maps(8)
    expected = torch.stack([x[i] + shift.bias[b].view(8, 1, 1) for i, b in enumerate(BANK)])
    assert torch.equal(shift(x, BANK), expected)


def test_activation_is_tile_shift_prelu_shift_of_the_bank():
    act = randomise(TimestepRPReLU(4, 3, copies=2))
    x = maps(4).requires_grad_()
    expected = []
    for i, b in enumerate(BANK):
        y = torch.cat([x[i], x[i]]) + act.shift_in[b].view(8, 1, 1)
        y = F.prelu(y.unsqueeze(0), act.slope[b]).squeeze(0)
        expected.append(y + act.shift_out[b].view(8, 1, 1))
    y, expected = act(x, BANK), torch.stack(expected)
    assert_same(y, expected)
    upstream = torch.randn_like(y)
    leaves = [x, *act.parameters()]
    ours, theirs = (torch.autograd.grad(z, leaves, upstream) for z in (y, expected))
    for a, b in zip(ours, theirs):
        assert_same(a, b)


def test_only_the_banks_in_the_batch_learn():
    act = TimestepRPReLU(4, 5)
    act(maps(4).float(), torch.tensor([1, 1, 3])).square().sum().backward()
    for parameter in act.parameters():
        assert parameter.grad.abs().sum(1).bool().tolist() == [0, 1, 0, 1, 0]


def test_a_fresh_activation_maps_0_to_0_and_bends_apart():
    act = TimestepRPReLU(2, 3, copies=4, spread=0.3).double()
    zero = act(torch.zeros(3, 2, 1, 1, dtype=torch.double), BANK)
    assert_same(zero, torch.zeros_like(zero))
    bends = act.shift_in[0].unflatten(0, (4, 2))[:, 0].tolist()
    assert bends == pytest.approx([-0.3, -0.1, 0.1, 0.3])
    assert not TimestepRPReLU(2, 3).shift_in.any()


@pytest.mark.parametrize('groups', [1, 2])
def test_no_copy_of_a_residual_blocks_convolutions_starts_constant(groups):
    # SiLU is never below -0.28: with the threshold -0.5 every sign would be +1
    block = ResBlock(8, 4, 2, 0.0, False, options(tau=2, groups=groups)).double()
    n = torch.tensor([-2.0, -0.6, -0.4, 0.4, 0.6]).double()
    for conv in (block.conv1, block.conv2):
        thresholds = conv.shift.bias[0].unflatten(0, (2 * groups, 8))[:, 0]
        signs = F.silu(n) + thresholds[:, None] > 0
        lowest, highest = signs[-1].tolist(), signs[0].tolist()
        assert lowest == [False, False, True, True, True]
        assert highest == [False, False, False, False, True]
    assert not ResBlock(8, 4, 2, 0.0, False, options()).conv1.shift.bias.any()


# ------------------------------------------------------------------ blocks


@pytest.mark.parametrize('kernel', [1, 3])
@pytest.mark.parametrize('tau, groups', [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_bi_conv_is_its_formula(tau, groups, kernel):
    conv = randomise(BIConv(8, kernel, **options(tau, groups)))
    wide = 8 * tau * groups
    assert conv.conv.weight.shape == (8 // tau, 8 * tau, kernel, kernel)
    x = maps(wide)
    weight = scaled_sign_weight(conv.conv.weight)
    expected = []
    for i, b in enumerate(BANK):
        signs = sign(x[i : i + 1] + conv.shift.bias[b].view(1, -1, 1, 1))
        parts = zip(signs.chunk(groups, 1), weight.chunk(groups))
        small = torch.cat([F.conv2d(s, w, padding=kernel // 2) for s, w in parts], 1)
        y = torch.cat([small] * (tau * tau * groups), 1)
        y = F.prelu(y + conv.act.shift_in[b].view(1, -1, 1, 1), conv.act.slope[b])
        expected.append(x[i : i + 1] + y + conv.act.shift_out[b].view(1, -1, 1, 1))
    y = conv(x, BANK)
    assert y.shape == x.shape
    assert_same(y, torch.cat(expected))


@pytest.mark.parametrize('factor', [1, 2])
def test_attention_attends_to_the_mean_of_the_copies(factor):
    attention = randomise(Attention(8, 2, factor))
    x = maps(8 * factor)
    mean = sum(x.chunk(factor, 1)) / factor
    normed = F.group_norm(mean, 2, attention.norm.weight, attention.norm.bias)
    qkv = F.conv2d(normed, attention.qkv.weight)
    q, k, v = qkv.flatten(2).chunk(3, 1)
    weights = torch.einsum('ncp,ncq->npq', q, k).div(8**0.5).softmax(-1)
    mixed = torch.einsum('npq,ncq->ncp', weights, v).view_as(mean)
    out = F.conv2d(mixed, attention.out.weight, attention.out.bias)
    assert_same(attention(x), x + torch.cat([out] * factor, 1))


def test_no_norm_of_a_residual_block_spans_two_copies():
    # equal copies stay equal and act like one copy
    torch.manual_seed(0)
    block = ResBlock(8, 4, 2, 0.0, False, options(tau=2, spread=0.0)).double()
    x = maps(8)
    normed = block.norm1(tile(x, 2))
    assert_same(normed, tile(F.group_norm(x, 2), 2))


def test_residual_block_is_its_formula():
    block = randomise(ResBlock(8, 4, 2, 0.0, True, options(tau=2)))
    x, time = maps(16), torch.randn(3, 4, dtype=torch.double)
    h = F.silu(F.group_norm(x, 4, block.norm1.weight, block.norm1.bias))
    h = block.conv1(h, BANK)
    moved = F.linear(F.silu(time), block.time.weight, block.time.bias)
    h = h + torch.cat([moved, moved], 1)[:, :, None, None]
    h = F.silu(F.group_norm(h, 4, block.norm2.weight, block.norm2.bias))
    assert_same(block(x, time, BANK), block.attention(block.conv2(h, BANK) + x))


def shortcuts_only(module):
    """Return ``module`` with binary convolutions as identities: ``conv(x) = x``."""
    for part in module.modules():
        if isinstance(part, BIConv):
            part.act = Zero()
    return module.double()


class Zero(torch.nn.Module):
    """Replaces an activation."""

    def forward(self, x, bank):
        return 0.0


@pytest.mark.parametrize('tau, groups', [(1, 1), (2, 1), (2, 2)])
def test_where_channels_go(tau, groups):
    factor = tau * groups
    x, s = maps(8), maps(8)

    def run(kind, *inputs):
        module = shortcuts_only(kind(8, options(tau, groups)))
        return module(*(tile(z, factor) for z in inputs), BANK)

    down = F.pixel_unshuffle(x[:, :4] + x[:, 4:], 2)
    assert_same(run(CPDown, x), tile(down, factor))
    up = F.pixel_shuffle(torch.cat([x, x], 1), 2)
    assert_same(run(CPUp, x), tile(up, factor))
    first = torch.cat([x[:, 1::2], s[:, 0::2]], 1)
    second = torch.cat([x[:, 0::2], s[:, 1::2]], 1)
    assert_same(run(CSFusion, x, s), tile(first + second, factor))


def test_plain_fusion_has_plain_convolutions():
    fusion = randomise(CSFusion(8, None))
    x, s = maps(8), maps(8)
    first = torch.cat([x[:, 1::2], s[:, 0::2]], 1)
    second = torch.cat([x[:, 0::2], s[:, 1::2]], 1)
    expected = F.conv2d(first, fusion.conv1.weight, fusion.conv1.bias)
    expected = expected + F.conv2d(second, fusion.conv2.weight, fusion.conv2.bias)
    assert_same(fusion(x, s, BANK), expected)


@with_other_defaults
def test_activations_are_built_with_the_defaults_of_torch(default):
    with torch_default(default):
        act, like = TimestepRPReLU(4, 3, copies=2, copy_init='balanced'), torch.ones(1)
    assert {(p.device, p.dtype) for p in act.parameters()} == {(like.device, like.dtype)}
