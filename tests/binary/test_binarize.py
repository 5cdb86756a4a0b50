"""``binarize`` replaces the right layers, and the new layers compute the right values."""

import copy
import functools
import io
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mmesbnn
from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import BinaryConv2d, ESConv2d, ESLinear, binarize
from mmesbnn.binary.replaceable import Reason
from mmesbnn.binary.shrunk import shrunk_weight


def signs_of(x):
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


def why(report):
    return {layer.name: layer.why for layer in report}


def names(layers):
    return [layer.name for layer in layers]


class Net(nn.Module):
    """A network of three layers; tests vary the middle one."""

    def __init__(self, *middle):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.middle = nn.Sequential(*middle)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.middle(self.first(x)).mean((2, 3)))


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.Linear(8, 4),
    )


# arithmetic ----------------------------------------------------------------------


@pytest.mark.parametrize('bias', [False, True])
def test_without_expansion_the_float_weights_become_latent_ones(bias):
    options = dict(stride=2, padding=(1, 0), dilation=(1, 2), bias=bias)
    conv = nn.Conv2d(8, 8, (3, 2), **options)
    net = Net(conv).double()
    x = torch.randn(2, 3, 9, 8).double()
    features = net.first(x)
    mmesbnn.binarize(net)
    scale = conv.weight.abs().mean((1, 2, 3), keepdim=True)
    expected = F.conv2d(
        signs_of(features), scale * signs_of(conv.weight), conv.bias, 2, (1, 0), (1, 2)
    )
    torch.testing.assert_close(net.middle(features), expected, rtol=1e-12, atol=1e-12)
    (layer,) = net.middle
    assert torch.equal(layer.conv.weight, conv.weight)
    assert (layer.bias is None) == (not bias)


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('tau', [1, 2, 4])
def test_expanded_layers_apply_a_kernel_to_every_copy_of_the_input(tau, groups):
    conv = nn.Conv2d(8, 16, 3, padding=1)
    net = Net(conv, nn.Conv2d(16, 8, 1)).double()
    x = torch.randn(2, 8, 5, 5).double()
    binarize(net, tau=tau, es_groups=groups, spread=0.75)
    shifts = torch.linspace(-1.5, 0.0, tau * groups) if tau * groups > 1 else [0.0]
    count = 16 // tau
    for j in range(16):
        kernels = conv.weight[j % count :: count]
        group = j % count // (count // groups)
        scale = kernels.abs().mean() / tau
        expected = conv.bias[j] + sum(
            F.conv2d(signs_of(x + b), scale * signs_of(kernel)[None], padding=1)
            for b, kernel in zip(shifts[group * tau :], kernels)
        )
        torch.testing.assert_close(net.middle[0](x)[:, j : j + 1], expected)


@pytest.mark.parametrize(('tau', 'groups'), [(1, 1), (2, 1), (1, 2), (4, 2)])
def test_linear_layers_are_pointwise_convolutions_of_tokens(tau, groups):
    linear = nn.Linear(6, 8)
    conv = nn.Conv2d(6, 8, 1)
    with torch.no_grad():
        conv.weight.copy_(linear.weight[..., None, None])
        conv.bias.copy_(linear.bias)
    tokens, maps = nn.ModuleList([linear]), nn.ModuleList([conv])
    for net in (tokens, maps):
        binarize(net, tau, groups, keep_first=False, keep_last=False)
    x = torch.randn(2, 5, 6)
    got, expected = tokens[0](x), maps[0](x.transpose(1, 2).unsqueeze(-1))
    torch.testing.assert_close(got, expected.squeeze(-1).transpose(1, 2))


@given(st.sampled_from([1, 2, 3]), st.integers(1, 3), st.integers(1, 4))
def test_shrunk_weights_are_the_float_weights_in_other_places(tau, kernels, inputs):
    weight = torch.randn(kernels * tau, inputs, 3, dtype=torch.float64)
    shrunk = shrunk_weight(weight, tau)
    assert shrunk.shape == (kernels, inputs * tau, 3)
    for j in range(kernels):
        copies = shrunk[j].unflatten(0, (tau, inputs))
        torch.testing.assert_close(copies * tau, weight[j::kernels])


def test_shrunk_weights_fit_the_outputs_they_stand_for():
    """Outputs correlate with the mean of the float outputs; random weights do not."""
    conv, x = nn.Conv2d(32, 32, 3), torch.randn(4, 32, 8, 8)
    net = nn.ModuleList([conv])
    target = conv(x).unflatten(1, (2, 16)).mean(1).flatten()
    binarize(net, tau=2, keep_first=False, keep_last=False)
    chance = ESConv2d(32, 32, 3, tau=2)

    def correlation(layer):
        y = layer(x)[:, :16].flatten()
        return torch.corrcoef(torch.stack([y, target]))[0, 1].item()

    assert correlation(net[0]) > 0.5
    assert abs(correlation(chance)) < 0.2


# what is kept --------------------------------------------------------------------


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


# arguments -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(tau=0), 'tau=0 must be an integer >= 1'),
        (dict(tau=1.5), 'tau=1.5 must be an integer >= 1'),
        (dict(es_groups=True), 'es_groups=True must be an integer >= 1'),
        (dict(spread=-1.0), 'spread=-1.0'),
        (dict(sign='cubic'), "sign='cubic'"),
        (dict(weight_binarizer='ternary'), "weight_binarizer='ternary'"),
        (dict(pad_value=2), 'pad_value=2'),
        (dict(latent_clip=0.0), 'latent_clip=0.0'),
        (dict(keep=['middle', 'neck.*']), "keep='neck.*' matches no"),
        (dict(keep='middle'), 'nothing to binarize in Net'),
        (dict(tau=7), 'nothing to binarize in Net'),
    ],
)
def test_bad_arguments_are_refused_before_anything_changes(options, message):
    net = Net(nn.Conv2d(8, 8, 1))
    before = dict(net.named_modules())
    with pytest.raises(ValueError, match=re.escape(message)):
        binarize(net, **options)
    assert dict(net.named_modules()) == before


@pytest.mark.parametrize('net', [nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Sequential()])
def test_networks_without_layers_to_replace_are_refused(net):
    with pytest.raises(ValueError, match='nothing to binarize'):
        binarize(net)


def test_an_example_that_fails_changes_nothing():
    net = Net(nn.Conv2d(8, 8, 1))
    with pytest.raises(RuntimeError):
        binarize(net, example=torch.randn(1, 4, 2, 2))
    assert type(net.middle[0]) is nn.Conv2d
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())


def test_options_reach_the_layers_and_are_not_shared():
    net = Net(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    binarizer = mmesbnn.binary.TemperatureWeight()
    binarize(
        net,
        tau=2,
        es_groups=2,
        spread=0.25,
        sign=dict(type='hard_tanh', clip=1.5),
        weight_binarizer=binarizer,
        pad_value=-1,
        latent_clip=1.0,
    )
    a, b = net.middle
    assert (a.expansion.tau, a.expansion.groups, a.shift.min()) == (2, 2, -0.5)
    assert a.conv.sign.clip == 1.5 and a.conv.pad_value == -1
    assert a.conv.parameter_bounds == {'weight': (-1.0, 1.0)}
    assert a.conv.weight_binarizer is not b.conv.weight_binarizer is not binarizer


def test_dtype_mode_and_frozen_state_stay():
    net = Net(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)).to(torch.bfloat16)
    net.middle[0].requires_grad_(False).eval()
    net.middle[1].bias.requires_grad_(False)
    binarize(net, tau=2)
    a, b = net.middle
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in a.parameters())
    assert b.conv.weight.requires_grad and not b.bias.requires_grad
    assert b.training and not any(m.training for m in a.modules())


def test_binarizing_again_finds_nothing():
    net = small_net()
    binarize(net, tau=2)
    with pytest.raises(ValueError, match='a binary layer already'):
        binarize(net, tau=2)


def test_the_report_is_a_table_with_counts():
    report = binarize(small_net(), tau=2)
    assert len(report) == len(list(report)) == 4
    assert (len(report.replaced), len(report.kept)) == (2, 2)
    reasons = [Reason.FIRST, Reason.REPLACED, Reason.REPLACED, Reason.LAST]
    assert [layer.reason for layer in report] == reasons
    assert report.binary_weights == 16 * 8 * 9 + 16 * 8
    assert report.kept_weights == 3 * 8 * 9 + 8 * 4
    lines = str(report).splitlines()
    assert lines[1].split() == ['0', 'Conv2d(3,', '8,', '3x3)', 'kept', 'first', 'layer']
    assert 'ESConv2d' in lines[2] and 'replaced' in lines[2]
    assert lines[-1].startswith('2 layers replaced with 1,280 binary weights; 2 kept')
    strided = binarize(Net(nn.Conv2d(8, 8, (3, 1), (2, 1), groups=2), nn.Conv2d(8, 8, 1)))
    assert strided.layers[1].layer == 'Conv2d(8, 8, 3x1, stride 2x1, groups 2)'


# whole networks ------------------------------------------------------------------


@settings(max_examples=10)
@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]))
def test_binary_multiplications_are_those_of_the_layers_replaced(tau, groups):
    plain, net = small_net(), small_net()
    report = binarize(net, tau, groups)
    before, after = count_ops(plain, (3, 8, 8)), count_ops(net, (3, 8, 8))
    macs = {layer.name: layer.fp_macs for layer in before.layers}
    assert after.total['bops'] == sum(macs[layer.name] for layer in report.replaced)
    assert after.total['fp_macs'] == sum(macs[layer.name] for layer in report.kept)
    assert after.total['binary_params'] == report.binary_weights
    assert check_binary(net, torch.randn(2, 3, 8, 8)) == []


@pytest.mark.parametrize(('tau', 'groups'), [(1, 1), (2, 2)])
def test_training_reduces_the_loss(tau, groups):
    net = small_net()
    binarize(net, tau, groups)
    x, y = torch.randn(32, 3, 8, 8), torch.arange(32) % 4
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad.abs().max() > 0 for p in net.parameters())
    assert losses[-1] < 0.5 * losses[0]


def test_state_dicts_load_into_a_network_binarized_the_same_way():
    a, b = small_net(), small_net()
    for net in (a, b):
        binarize(net, tau=2)
    a(torch.randn(4, 3, 8, 8))
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)
    b.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(a.eval()(x), b.eval()(x))


@pytest.mark.parametrize('twin', [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_binarized_networks_can_be_copied_and_pickled(twin):
    net = small_net()
    report = binarize(net, tau=2)
    other, x = twin(net.eval()), torch.randn(2, 3, 8, 8)
    assert torch.equal(other(x), net(x))
    assert str(twin(report)) == str(report)


def mmpretrain(cfg):
    pytest.importorskip('mmpretrain')
    from mmpretrain.registry import MODELS

    return MODELS.build(cfg)


def mmpretrain_resnet():
    return mmpretrain(
        dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet', depth=18),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=512),
        )
    )


def mmpretrain_vit():
    backbone = dict(type='VisionTransformer', arch='deit-tiny', img_size=32, patch_size=8)
    head = dict(type='VisionTransformerClsHead', num_classes=10, in_channels=192)
    return mmpretrain(dict(type='ImageClassifier', backbone=backbone, head=head))


def torchvision_resnet():
    return pytest.importorskip('torchvision').models.resnet18()


def torchvision_vit():
    models = pytest.importorskip('torchvision').models
    return models.VisionTransformer(32, 8, 3, 4, hidden_dim=32, mlp_dim=64)


class BackboneAndNeck(nn.Module):
    def __init__(self, backbone, neck):
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, x):
        return self.neck(self.backbone(x))


def mmdet_fpn():
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops', exc_type=ImportError)
    from mmdet.models import FPN, ResNet

    backbone = ResNet(18, norm_cfg=dict(type='BN'))
    return BackboneAndNeck(backbone, FPN([64, 128, 256, 512], 64, 5))


@pytest.mark.parametrize(
    ('build', 'replaced', 'kept'),
    [
        (mmpretrain_resnet, 19, ['backbone.conv1', 'head.fc']),
        (mmpretrain_vit, 48, ['backbone.patch_embed.projection', 'head.layers.head']),
        (torchvision_resnet, 19, ['conv1', 'fc']),
        # the out_proj of its attentions is kept too
        (torchvision_vit, 6, ['conv_proj', 'heads.head']),
        (mmdet_fpn, 26, ['backbone.conv1', 'neck.fpn_convs.3.conv']),
        (lambda: mmpretrain(dict(type='MobileNetV2')), 33, ['conv1.conv', 'conv2.conv']),
    ],
)
def test_networks_of_the_ecosystem(build, replaced, kept):
    net = build()
    x = torch.randn(2, 3, 32, 32)
    shapes = [y.shape for y in leaves(net(x))]
    report = binarize(net, tau=2)
    assert len(report.replaced) == replaced
    assert {kept[0], kept[1]} <= set(names(report.kept))
    binary = [m for m in net.modules() if isinstance(m, (ESConv2d, ESLinear))]
    assert len(binary) == replaced
    outputs = leaves(net(x))
    assert [y.shape for y in outputs] == shapes
    sum(y.square().mean() for y in outputs).backward()
    assert all(m.shift.grad.isfinite().all() for m in binary)
    assert check_binary(net, x) == []
    assert count_ops(net, (3, 32, 32)).total['binary_layers'] == replaced


def leaves(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


@pytest.mark.slow
def test_an_example_finds_both_outputs_of_a_detector():
    mmdet = pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops', exc_type=ImportError)
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules(init_default_scope=True)
    base = f'{mmdet.__path__[0]}/.mim/configs/_base_/models/retinanet_r50_fpn.py'
    cfg = Config.fromfile(base).model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.update(in_channels=[64, 128, 256, 512], out_channels=32)
    cfg.bbox_head.update(in_channels=32, feat_channels=32)
    model = MODELS.build(cfg)
    example = dict(inputs=torch.randn(1, 3, 64, 64), mode='tensor')
    report = binarize(model, tau=2, example=example)
    assert names(report.kept) == ['backbone.conv1', 'bbox_head.retina_cls', 'bbox_head.retina_reg']
    assert all(y.isfinite().all() for part in model(**example) for y in part)


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


@pytest.mark.parametrize('name', ['swin_t', 'swin_v2_t'])
def test_swin_of_torchvision_runs(name):
    models = pytest.importorskip('torchvision').models
    net = getattr(models, name)(num_classes=3)
    report = binarize(net, tau=2)
    assert any(layer.name.endswith('mlp.0') for layer in report.replaced)
    assert not any('qkv' in layer.name for layer in report.replaced)
    assert net(torch.rand(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize('keep', [(), 'middle.0'])
def test_other_layers_of_mmcv_are_kept(keep):
    wrappers = pytest.importorskip('mmcv.cnn.bricks.wrappers')
    net = Net(wrappers.ConvTranspose2d(8, 8, 3), wrappers.Conv2d(8, 8, 1))
    net.volume = wrappers.Conv3d(8, 8, 1)
    report = why(binarize(net, keep=keep, keep_last=False))
    assert keep or report['middle.0'] == ('ConvTranspose2d is neither nn.Conv2d nor nn.Linear')
    assert report['volume'] == 'Conv3d is neither nn.Conv2d nor nn.Linear'
    assert report['middle.1'] == 'now ESConv2d'


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


def test_layers_that_were_replaced_in_inference_mode_train():
    net, x = small_net(), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        binarize(net, tau=2, example=x, copy_init='signs')
    net(x).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
