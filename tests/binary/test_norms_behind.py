"""``norms_behind`` finds the norms of a layer, and copies start with their gains."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmesbnn.binary import ESConv2d, ESLinear, binarize, start_copies
from mmesbnn.binary.expansion import copy_signs
from mmesbnn.binary.norms_behind import flip_channels, norms_behind
from mmesbnn.binary.shrunk import shrunk_weight
from tests.binary.es_reference import assert_same, double


class Net(nn.Module):
    """A convolution, two norms, and a forward pass that the test chooses."""

    def __init__(self, layer, compute):
        super().__init__()
        self.layer, self.norm, self.other = layer, nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.compute = compute

    def forward(self, x):
        return self.compute(self, x, self.layer(x))


def find(net, x):
    return norms_behind(net, [net.layer], lambda: net(x))


def es_conv(**options):
    return ESConv2d(8, 8, 3, padding=1, **{'tau': 2, **options})


IMAGE = torch.randn(2, 8, 5, 5)
READ = {
    'norm': (lambda net, x, y: net.norm(y).relu(), ['norm']),
    'called again': (lambda net, x, y: net.norm(y) + net.other(net.layer(x)), ['norm', 'other']),
    'two norms': (lambda net, x, y: net.norm(y) + net.other(y), ['norm', 'other']),
    'shape only': (lambda net, x, y: net.norm(y) * y.shape[0] * y.dim(), ['norm']),
    'reads others': (lambda net, x, y: net.norm(y) + net.norm(x), []),
    'read before': (lambda net, x, y: net.other(x) + net.norm(y) + net.other(y), []),
    'added': (lambda net, x, y: net.norm(y) + y, []),
    'relu': (lambda net, x, y: net.norm(y.relu()), []),
    'nothing': (lambda net, x, y: y, []),
    'returned, too': (lambda net, x, y: {'raw': [y], 'normed': net.norm(y)}, []),
    'returned in an object': (lambda net, x, y: SimpleNamespace(raw=y, normed=net.norm(y)), []),
}


@pytest.mark.parametrize('case', READ)
@pytest.mark.parametrize('layer', [es_conv(), nn.Conv2d(8, 8, 1)], ids=['es', 'float'])
def test_norms_are_those_that_read_the_output_and_nothing_else_does(case, layer):
    compute, names = READ[case]
    net = Net(layer, compute)
    before = copy.deepcopy(net.state_dict())
    found = find(net, IMAGE)
    assert found == ({layer: [getattr(net, name) for name in names]} if names else {})
    assert net.training and all(map(torch.equal, net.state_dict().values(), before.values()))


def test_norms_of_several_layers_and_norms_without_affine_are_left_out():
    first, second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    shared = nn.BatchNorm2d(8)
    net = nn.Sequential(first, shared, second, shared)
    assert norms_behind(net, [first, second], lambda: net(IMAGE)) == {}
    plain = nn.Sequential(first, nn.BatchNorm2d(8, affine=False))
    assert norms_behind(plain, [first], lambda: plain(IMAGE)) == {}


def test_norms_that_share_gains_with_another_norm_are_left_out():
    first, second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    norms = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
    norms[1].weight = norms[0].weight
    net = nn.Sequential(first, norms[0], second, norms[1])
    assert norms_behind(net, [first, second], lambda: net(IMAGE)) == {}
    assert norms_behind(net, [first], lambda: net(IMAGE)) == {}


def test_norms_of_another_axis_are_left_out():
    linear, norm = nn.Linear(8, 6), nn.BatchNorm1d(6)
    net = nn.Sequential(linear, norm)
    assert norms_behind(net, [linear], lambda: net(torch.randn(3, 8))) == {linear: [norm]}
    assert norms_behind(net, [linear], lambda: net(torch.randn(3, 6, 8))) == {}


@pytest.mark.parametrize('training', [True, False])
def test_flipped_channels_change_nothing(training):
    conv, norm = nn.Conv2d(8, 6, 3).double(), nn.BatchNorm2d(6).double()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    net = nn.Sequential(conv, norm).train(training)
    x = double(4, 8, 5, 5)
    before = copy.deepcopy(net)(x)
    signs = torch.tensor([1.0, -1, -1, 1, -1, 1])
    with torch.no_grad():
        conv.weight.mul_(signs.view(-1, 1, 1, 1))
        conv.bias.mul_(signs)
    flip_channels([norm], signs)
    assert_same(net(x), before)
    assert norm.weight.requires_grad


# start_copies ----------------------------------------------------------------------


def network():
    return nn.Sequential(
        es_conv(), nn.BatchNorm2d(8), nn.ReLU(), es_conv(tau=4, es_groups=2), nn.BatchNorm2d(8),
        nn.ReLU(), es_conv(), nn.ReLU(), es_conv(tau=1), nn.BatchNorm2d(8), nn.Flatten(),
        ESLinear(200, 12, tau=2), nn.BatchNorm1d(12),
    )  # fmt: skip


def test_gains_behind_drop_in_layers_are_the_signs_of_the_copies():
    net = network()
    keys = net.state_dict().keys()
    torch.manual_seed(6)
    started = start_copies(net, 'balanced', lambda: net(IMAGE))
    assert started == {'0': True, '3': True, '6': False, '11': True}
    torch.manual_seed(6)
    for index, (channels, copies) in {1: (4, 2), 4: (2, 4), 12: (6, 2)}.items():
        assert torch.equal(net[index].weight, copy_signs(channels, copies, 'balanced'))
    assert net[9].weight.eq(1).all(), 'tau=1 has no copies'
    assert net.state_dict().keys() == keys


def test_copies_differ_behind_the_norm():
    net = network()[:2]
    alike = net(IMAGE).chunk(2, 1)
    assert torch.equal(*alike)
    start_copies(net, 'balanced', lambda: net(IMAGE))
    torch.testing.assert_close(*net(IMAGE).abs().chunk(2, 1))
    assert torch.equal(net(IMAGE)[:, :4], -net(IMAGE)[:, 4:])


@pytest.mark.parametrize('gains', [[1.0] * 7 + [1.1], [0.0] * 8])
def test_trained_gains_and_zeros_stay(gains):
    net = network()[:2]
    net[1].weight.data = torch.tensor(gains)
    assert start_copies(net, 'signs', lambda: net(IMAGE)) == {'0': False}
    assert net[1].weight.tolist() == torch.tensor(gains).tolist()


def test_alike_changes_nothing_and_other_ways_are_refused():
    net = network()
    assert not any(start_copies(net, 'alike', lambda: net(IMAGE)).values())
    assert net[1].weight.eq(1).all()
    with pytest.raises(ValueError, match="copy_init='both' must be"):
        start_copies(net, 'both', lambda: net(IMAGE))


# binarize --------------------------------------------------------------------------


def float_network():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1),
        nn.ReLU(), nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    for tensor in (net[2].weight, net[2].bias, net[2].running_mean):
        nn.init.normal_(tensor)
    return net


EXAMPLE = torch.randn(2, 3, 9, 9)


def test_channels_are_negated_before_copies_are_made():
    net, old = float_network(), float_network()
    torch.manual_seed(2)
    report = binarize(net, tau=2, copy_init='balanced', example=EXAMPLE)
    torch.manual_seed(2)
    signs = copy_signs(4, 2, 'balanced')
    weight = old[1].weight * signs.view(-1, 1, 1, 1)
    assert_same(net[1].conv.weight, shrunk_weight(weight, 2))
    assert_same(net[1].bias, old[1].bias * signs)
    assert_same(net[2].weight, old[2].weight * signs)
    assert_same(net[2].running_mean, old[2].running_mean * signs)
    assert torch.equal(net[2].bias, old[2].bias)
    assert torch.equal(net[4].conv.weight, shrunk_weight(old[4].weight, 2))
    whys = {layer.name: layer.why for layer in report.replaced}
    assert whys == {
        '1': 'now ESConv2d',
        '4': 'now ESConv2d, its copies start alike: no batch norm alone reads them',
    }
    alike = float_network()
    binarize(alike, tau=2)
    assert net.state_dict().keys() == alike.state_dict().keys()


def test_one_copy_has_nothing_to_negate():
    alike, net = float_network(), float_network()
    binarize(alike)
    report = binarize(net, copy_init='signs')
    assert all(map(torch.equal, net.state_dict().values(), alike.state_dict().values()))
    assert {layer.why for layer in report.replaced} == {'now ESConv2d'}


def test_copies_need_an_example_and_nothing_is_changed_without():
    net = float_network()
    with pytest.raises(ValueError, match="copy_init='signs' needs example"):
        binarize(net, tau=2, copy_init='signs')
    with pytest.raises(ValueError, match="copy_init='both' must be"):
        binarize(net, tau=2, copy_init='both', example=EXAMPLE)
    assert type(net[1]) is nn.Conv2d
