"""Correlation of copies, effective rank, and the number of values of an output entry."""

import math

import pytest
import torch
from torch import nn

from mmesbnn.analysis import count_ops, measure_capacity
from mmesbnn.analysis.capacity import copy_correlation, correlations, effective_rank, values_taken
from mmesbnn.binary import BinaryLinear, ESConv2d, Expansion, ShrunkConv2d, TiledBatchNorm2d
from mmesbnn.models.backbones import ReActNet
from tests.families import BACKBONES

N = 4096


def independent(channels, n=N):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(2, (channels, n), generator=generator) * 2.0 - 1


def test_correlations_are_numpys_and_constant_channels_have_none():
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[3] = 2 * x[1] - 1
    x[4] = -x[0]
    torch.testing.assert_close(correlations(x), torch.corrcoef(x))
    x[2] = 7.0
    matrix = correlations(x)
    assert matrix[2].eq(0).all() and matrix[:, 2].eq(0).all()


def test_a_single_other_sign_is_not_constant():
    x = torch.ones(2, N)
    x[0, 5] = -1
    assert correlations(x).diagonal().tolist() == pytest.approx([1, 0], abs=1e-4)


@pytest.mark.parametrize('times', [1, 2, 4])
def test_effective_rank_of_known_matrices(times):
    eye = torch.eye(12 // times)
    assert effective_rank(eye.repeat(times, times)) == pytest.approx(12 / times)
    # negated copies add no more than equal ones
    signs = torch.tensor([1.0, -1, 1] * 4)
    matrix = eye.repeat(times, times) * signs * signs.unsqueeze(1)
    assert effective_rank(matrix) == pytest.approx(12 / times)


@pytest.mark.parametrize('r', [0.0, 0.3, -0.3, 1.0])
def test_effective_rank_of_two_channels(r):
    matrix = torch.tensor([[1.0, r], [r, 1.0]])
    # eigenvalues 1 + r and 1 - r
    assert effective_rank(matrix) == pytest.approx(4 / ((1 + r) ** 2 + (1 - r) ** 2))


def test_effective_rank_of_constant_and_of_independent_channels():
    assert effective_rank(torch.zeros(4, 4)) == 0
    assert effective_rank(correlations(independent(64))) == pytest.approx(
        64 / (1 + 64 / N), rel=0.02
    )


@pytest.mark.parametrize('copies', [2, 4])
def test_identical_and_negated_copies_correlate_fully(copies):
    x = independent(8 // copies)
    for copied in (x.repeat(copies, 1), torch.cat([x, -x] * (copies // 2))):
        assert copy_correlation(correlations(copied), copies) == pytest.approx(1, abs=1e-5)


def test_independent_copies_correlate_as_noise():
    found = copy_correlation(correlations(independent(64)), 4)
    assert found == pytest.approx(math.sqrt(2 / math.pi / N), rel=0.2)


def test_copies_are_channels_a_copy_apart():
    matrix = torch.eye(6)
    matrix[0, 2] = matrix[2, 0] = 0.6  # c = 0, copies 0 and 1 of three
    matrix[0, 1] = matrix[1, 0] = 0.9  # two channels of one copy
    assert copy_correlation(matrix, 3) == pytest.approx(0.6 / 6)
    assert copy_correlation(matrix, 1) is None
    matrix[4:] = matrix[:, 4:] = 0  # the third copies are constant
    assert copy_correlation(matrix, 3) == pytest.approx(0.6 / 2)
    with pytest.raises(ValueError, match='copies=4 does not divide 6'):
        copy_correlation(matrix, 4)


def test_values_are_counted_per_channel():
    y = torch.tensor([[-3.0, -1, 1, 3, 3, 1], [1, 1, 1, 1, 1, 1], [5, -5, 5, -5, 5, -5]])
    scale = torch.tensor([0.1, 0.7, 1e-3])
    assert values_taken(y * scale.unsqueeze(1), scale) == pytest.approx((4 + 1 + 2) / 3)


# whole networks --------------------------------------------------------------------


def layer(**options):
    torch.manual_seed(0)
    return ShrunkConv2d(8, 8, 1, expansion=Expansion(2, 1), **options)


def test_identical_copies_of_a_network():
    conv = layer()
    base = independent(4, N).view(4, 4, 32, 32).transpose(0, 1)
    (found,) = measure_capacity(nn.Sequential(conv), lambda: conv(base.repeat(1, 4, 1, 1)))
    assert (found.name, found.channels, found.copies, found.possible) == ('0', 16, 4, 17)
    assert found.copy_correlation == pytest.approx(1, abs=1e-5)
    assert found.rank == pytest.approx(4, rel=0.01)
    # four signs, each times an even number from -4 to 4
    with torch.no_grad():
        sums = conv.effective_weight().sign().view(4, 4, 4).sum(1).abs()
    reachable = [
        len({sum(s * v for s, v in zip(signs, row)) for signs in SIGNS}) for row in sums.tolist()
    ]
    assert found.values == pytest.approx(sum(reachable) / 4)


SIGNS = [[1 - 2 * (n >> i & 1) for i in range(4)] for n in range(16)]


def test_a_bias_and_a_scale_change_no_number_of_values():
    x = independent(16).view(16, 4, 32, 32).transpose(0, 1)
    plain, biased = layer(), layer(bias=True)
    with torch.no_grad():
        biased.weight.copy_(3.7 * plain.weight)
    found = [measure_capacity(m, lambda m=m: m(x))[0] for m in (plain, biased)]
    assert found[0] == found[1]
    assert 10 < found[0].values <= 17


def test_tokens_and_groups():
    torch.manual_seed(0)
    linear = BinaryLinear(6, 5)
    tokens = independent(6, 60).T.reshape(3, 20, 6)
    (found,) = measure_capacity(linear, lambda: linear(tokens))
    matrix = torch.corrcoef(tokens.flatten(0, 1).T)
    assert found.rank == pytest.approx(effective_rank(matrix), rel=1e-4)
    assert (found.copies, found.copy_correlation, found.possible) == (1, None, 7)


def test_layers_that_make_their_own_copies():
    net = ESConv2d(8, 8, 1, tau=2, spread=0.0)
    (found,) = measure_capacity(net, lambda: net(torch.randn(2, 8, 8, 8)))
    # both copies of the input are equal; two channels of it are not
    assert (found.name, found.copies, found.channels) == ('conv', 4, 16)
    assert found.rank < 8.01


def test_positions_are_evenly_spaced():
    conv = layer()
    seen = []
    conv.register_forward_hook(lambda *_: seen.append(1))
    x = torch.ones(1, 16, 1, 10)
    x[..., ::2] = -1
    found = measure_capacity(conv, lambda: conv(x), positions=5)[0]
    assert found.rank == 0, 'every second pixel is the same'
    assert measure_capacity(conv, lambda: conv(x), positions=10)[0].rank == pytest.approx(1)
    assert len(seen) == 2


def test_real_weights_take_no_number_of_values():
    model = BACKBONES['es-bnext'].build()
    found = measure_capacity(model, lambda: model(*BACKBONES['es-bnext'].images()))
    assert all(x.values is None for x in found), 'soft at the start'


def test_the_network_is_as_before():
    row = BACKBONES['es-reactnet-a']
    model = row.build().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = measure_capacity(model, lambda: model(*row.images()))
    assert model.training and not any(m._forward_hooks for m in model.modules())
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert [x.name for x in found] == [
        x.name for x in count_ops(model, *row.images()).layers if x.taps
    ]


def test_statistics_of_the_batch():
    row = BACKBONES['es-reactnet-a']
    model = row.build().train()
    model.stages[0].eval()  # as norms that are frozen
    before = {k: v.clone() for k, v in model.state_dict().items()}
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, TiledBatchNorm2d):
            module.register_forward_hook(lambda m, x, y, name=name: seen.update({name: m.training}))
    found = measure_capacity(model, lambda: model(*row.images()), batch_statistics=True)
    assert seen and all(seen[name] != name.startswith('stages.0') for name in seen)
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert model.training and not model.stages[0].training
    assert found != measure_capacity(model, lambda: model(*row.images()))
    # norms in eval mode have no other statistics than the running ones
    model.eval()
    plain, own = (
        measure_capacity(model, lambda: model(*row.images()), batch_statistics=flag)
        for flag in (False, True)
    )
    assert plain == own


def test_a_layer_that_is_the_whole_model_is_added_to_its_report():
    layer = BinaryLinear(8, 4)
    x = torch.randn(5, 8)
    report = count_ops(layer, x)
    report.add_capacity(measure_capacity(layer, lambda: layer(x)))
    assert report.layers[0].name == 'BinaryLinear' and report.layers[0].rank > 0


def test_nothing_to_measure():
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match='Linear runs no binary layer'):
        measure_capacity(model, lambda: model(torch.ones(1, 3)))
    with pytest.raises(ValueError, match='positions=0 must be'):
        measure_capacity(model, lambda: None, positions=0)


@pytest.mark.parametrize('copy_init', ['signs', 'balanced'])
def test_signs_make_copies_differ_and_raise_the_rank(copy_init):
    """The reason for ``copy_init``, in the last layer of a residual network."""
    ranks, alike = {}, {}
    for init in ('alike', copy_init):
        torch.manual_seed(0)
        model = ReActNet(dict(channels=[32, 32], depths=[6]), tau=2, copy_init=init)
        for m in model.modules():
            if isinstance(m, TiledBatchNorm2d):
                m.momentum = 1.0
        x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        model(x)
        last = measure_capacity(model, lambda model=model, x=x: model(x))[-1]
        ranks[init], alike[init] = last.rank, last.copy_correlation
    assert ranks[copy_init] > 1.5 * ranks['alike']
    assert alike[copy_init] < 0.7 * alike['alike']


@pytest.mark.usefixtures('no_graphs')
@pytest.mark.skipif(not hasattr(torch.compiler, 'set_stance'), reason='new in torch 2.6')
def test_a_compiled_network_that_has_run():
    network, x = nn.Sequential(layer()).eval(), torch.randn(1, 16, 8, 8)
    expected = measure_capacity(network, lambda: network(x))
    compiled = torch.compile(network, backend='eager')
    with torch.no_grad():
        compiled(x)
    (found,) = measure_capacity(compiled, lambda: compiled(x))
    assert found.rank == expected[0].rank
