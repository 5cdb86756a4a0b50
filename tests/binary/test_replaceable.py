"""Layers that stay as they are, and the reasons that the report gives."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmesbnn.binary import BinaryConv2d, ESConv2d, binarize
from tests.binary.float_networks import Net, names, why


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = self.attention(x, x, x)[0]
        return self.encoder(x).transpose(1, 2).unsqueeze(-1)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.a(self.b(x))


class OtherConv(nn.Conv2d):
    pass


def hooked(kind='forward'):
    conv = nn.Conv2d(8, 8, 1)
    getattr(conv, f'register_{kind}_hook')(lambda *args: None)
    return conv


def with_own_forward():
    conv = nn.Conv2d(8, 8, 1)
    conv.forward = functools.partial(nn.Conv2d.forward, conv)
    return conv


@pytest.mark.parametrize(
    ('build', 'name', 'reason'),
    [
        (lambda: nn.Conv2d(8, 8, 3, groups=8), '0', 'depthwise'),
        (lambda: nn.Conv2d(8, 8, 3, groups=2), '0', 'grouped, groups=2'),
        (lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode='reflect'), '0', 'reflect'),
        (lambda: nn.Conv2d(8, 8, 2, padding='same'), '0', "padding='same'"),
        (lambda: nn.ConvTranspose2d(8, 8, 2), '0', 'ConvTranspose2d is neither'),
        (lambda: BinaryConv2d(8, 8, 1), '0', 'a binary layer already'),
        (lambda: OtherConv(8, 8, 1), '0', 'OtherConv is neither'),
        (hooked, '0', 'has forward or backward hooks'),
        (lambda: hooked('full_backward'), '0', 'has forward or backward hooks'),
        (lambda: hooked('full_backward_pre'), '0', 'has forward or backward hooks'),
        (with_own_forward, '0', 'its forward was replaced'),
        (lambda: nn.utils.spectral_norm(nn.Conv2d(8, 8, 1)), '0', 'forward or backward hooks'),
        (
            lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)),
            '0',
            'ParametrizedConv2d is neither',
        ),
        (Tied, '0.a', 'shares its weight with middle.0.b'),
        (Tied, '0.b', 'shares its weight with middle.0.a'),
        (Attention, '0.attention.out_proj', 'MultiheadAttention reads its weight'),
        (Attention, '0.encoder.linear1', 'TransformerEncoderLayer reads its weight'),
    ],
)
def test_layers_that_es_cannot_replace_are_kept(build, name, reason):
    net = Net(build(), nn.Conv2d(8, 8, 1)).eval()
    kept = net.get_submodule(f'middle.{name}')
    report = binarize(net, tau=2)
    assert net.get_submodule(f'middle.{name}') is kept
    assert reason in why(report)[f'middle.{name}']
    assert names(report.replaced) == ['middle.1']
    assert net(torch.randn(2, 3, 6, 6)).isfinite().all()


def test_what_does_not_divide_is_kept():
    net = Net(nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1))
    report = binarize(net, tau=4)
    assert why(report)['middle.0'] == 'tau=4 does not divide out_channels=6'
    assert names(report.replaced) == ['middle.1']


@pytest.mark.parametrize('padding', ['same', 'valid'])
def test_named_padding_becomes_pixels(padding):
    conv = nn.Conv2d(8, 8, (3, 5), dilation=(1, 2), padding=padding)
    net = Net(conv)
    x = torch.randn(1, 8, 9, 9)
    binarize(net)
    assert isinstance(net.middle[0], ESConv2d)
    assert net.middle[0](x).shape == conv(x).shape


def test_first_and_last_are_kept_unless_told_otherwise():
    def kept(**kwargs):
        report = binarize(Net(nn.Conv2d(8, 8, 1)), **kwargs)
        return {layer.name: layer.why for layer in report.kept}

    assert kept() == {'first': 'first layer', 'last': 'last layer'}
    assert kept(keep_first=False) == {'last': 'last layer'}
    assert kept(keep_last=False) == {'first': 'first layer'}
    assert kept(keep_first=False, keep_last=False) == {}


def test_keep_takes_names_and_patterns_of_layers_and_of_what_holds_them():
    def kept(keep):
        net = Net(nn.Conv2d(8, 8, 1), nn.Sequential(nn.Conv2d(8, 8, 1)))
        net.extra = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
        report = binarize(net, keep=keep)
        return [x.name for x in report.kept if x.why.startswith('keep=')]

    assert kept('middle.0') == ['middle.0']
    assert kept(['middle.1']) == ['middle.1.0']
    assert kept(['middle']) == ['middle.0', 'middle.1.0']
    assert kept(['*.0', 'last']) == ['middle.0', 'middle.1.0', 'last', 'extra.0']
    assert kept(['m?ddle.[01]']) == ['middle.0', 'middle.1.0']


class Branches(nn.Module):
    """Has two inputs and two outputs; definition and execution have different orders."""

    def __init__(self):
        super().__init__()
        self.middle = nn.Linear(4, 4)
        self.out_a, self.out_b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.in_a, self.in_b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, a, b, reshape=False):
        y = self.last(self.middle(self.norm(self.in_a(a) + self.in_b(b))))
        return {'a': self.out_a(y), 'b': [self.out_b(y).view(-1, 2, 2)]}


@pytest.mark.parametrize(
    'example',
    [[torch.randn(2, 4), torch.randn(2, 4)], dict(a=torch.randn(2, 4), b=torch.randn(2, 4))],
)
def test_an_example_shows_which_layers_are_first_and_last(example):
    net = Branches().train()
    net.norm.eval()
    state = copy.deepcopy(net.norm.state_dict())
    report = binarize(net, example=example)
    assert why(report) == {
        'middle': 'now ESLinear',
        'out_a': 'last layer, gives the output',
        'out_b': 'last layer, gives the output',
        'in_a': 'first layer, reads the input',
        'in_b': 'first layer, reads the input',
        'idle': 'did not run on the example',
        'last': 'now ESLinear',
    }
    assert net.training and not net.norm.training
    torch.testing.assert_close(net.norm.state_dict(), state)
    assert not any(m._forward_hooks for m in net.modules())


def test_where_no_layer_reads_the_input_or_gives_the_output_running_first_and_last_count():
    net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
    model = nn.Sequential(nn.Embedding(4, 8), net, nn.LayerNorm(8))
    report = binarize(model, example=torch.tensor([[0, 3]]))
    assert why(report) == {
        '1.0': 'first layer that ran',
        '1.1': 'now ESLinear',
        '1.2': 'last layer that ran',
    }


def test_a_module_with_several_names_is_replaced_once_everywhere():
    shared = nn.Conv2d(8, 8, 1)
    net = Net(shared, nn.ReLU(), shared)
    net.same = shared
    report = binarize(net)
    (layer,) = report.replaced
    assert (layer.name, layer.aliases) == ('middle.0', ('middle.2', 'same'))
    assert 'also middle.2' in str(report)
    assert net.middle[0] is net.middle[2] is net.same
    assert isinstance(net.same, ESConv2d)
    assert report.binary_weights == 64


class Readers(nn.Module):
    """Multiplies with the weights of children in several common ways."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.own = nn.Linear(8, 8)
        self.plain = nn.Linear(8, 8)
        self.held = nn.Sequential(nn.Linear(8, 8))
        self.listed = nn.ModuleList([nn.Linear(8, 8)])

    def init_weights(self):
        nn.init.zeros_(self.plain.weight)  # initialising a layer does not count as a use

    def forward(self, x):
        return self.last(self.plain(self._read(self.first(x))))

    def _read(this, x):
        x = F.linear(F.linear(x, this.own.weight), this.held[0].weight)
        return F.linear(x, this.listed[0].weight)


def test_layers_whose_weight_a_module_reads_are_kept():
    """Otherwise the first forward pass fails, as in torchvision's Swin."""
    net = Readers()
    report = why(binarize(net, example=torch.rand(2, 8)))
    read = {name for name, reason in report.items() if reason == 'Readers reads its weight'}
    assert read == {'own', 'held.0', 'listed.0'}
    assert report['plain'] == 'now ESLinear'
    net(torch.rand(2, 8))


def test_what_a_class_says_of_its_children_needs_no_example():
    report = why(binarize(Readers(), keep='listed'))
    assert report['own'] == 'Readers reads its weight'
    assert report['plain'] == 'now ESLinear'


def test_a_read_that_nothing_foretold_is_explained():
    net = Readers()
    binarize(net, keep='held', keep_last=False)
    with pytest.raises(AttributeError, match=r'binarize\(\.\.\., keep=NAME\)'):
        net(torch.rand(2, 8))


def test_lazy_layers_are_kept():
    report = binarize(Net(nn.LazyConv2d(8, 1), nn.Conv2d(8, 8, 1)))
    assert why(report)['middle.0'] == 'LazyConv2d is neither nn.Conv2d nor nn.Linear'


def test_complex_layers_are_kept():
    net = nn.Sequential(*[nn.Linear(4, 4, dtype=torch.complex64) for _ in range(3)])
    with pytest.raises(ValueError, match=r'weights are complex, torch\.complex64'):
        binarize(net)


def test_a_subclass_of_the_same_name_is_told_apart():
    class Linear(nn.Linear):
        """A layer of another package."""

    report = binarize(Net(nn.Conv2d(8, 8, 1), Linear(4, 4)))
    reason = f'{Linear.__module__}.Linear is neither nn.Conv2d nor nn.Linear'
    assert why(report)['middle.1'] == reason
