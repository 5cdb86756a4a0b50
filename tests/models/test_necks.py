"""The extra layers of BiDet's SSD: each is binary; formula, ES, a batch of one."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmesbnn.analysis import count_ops
from mmesbnn.binary import BinaryConv2d, ESConv2d, binary_layers

WIDTHS = (16, 32, 16, 8, 8, 8)
#: Of the four extra levels: stride and padding of the second convolution.
GEOMETRY = ((2, 1), (2, 1), (1, 0), (1, 0))


@pytest.fixture(autouse=True)
def scope(no_runners):
    """Set mmdet's default scope, as a runner does."""
    init_default_scope('mmdet')


def build(**options):
    strides, paddings = zip(*GEOMETRY)
    given = dict(
        in_channels=WIDTHS[:2], out_channels=WIDTHS, level_strides=strides, level_paddings=paddings
    )
    return MODELS.build({'type': 'BiDetSSDNeck', **given, **options})


def maps(count=2):
    return [torch.randn(count, 16, 38, 38), torch.randn(count, 32, 19, 19).relu()]


def binary_conv(x, weight, stride=1, padding=0, zero=-1):
    signs = torch.where(x > 0, 1.0, torch.where(x < 0, -1.0, zero))
    signs = F.pad(signs, (padding,) * 4, value=-1)
    scale = weight.abs().mean((1, 2, 3))
    return F.conv2d(signs, weight.sign(), stride=stride) * scale[:, None, None]


@pytest.mark.parametrize('tau', [1, 2])
def test_sign_and_weight_binarizer_are_options(tau):
    neck = build(tau=tau, sign=dict(type='swish', beta=2.0), weight_binarizer='learned_scale')
    layers = list(binary_layers(neck).values())
    assert layers and all(layer.sign.beta == 2 and layer.pad_value == -1 for layer in layers)
    sum(y.square().mean() for y in neck(maps())).backward()
    assert all(layer.weight_binarizer.scale.grad.any() for layer in layers)
    with pytest.raises(ValueError, match="sign='heaviside' gives 0 and 1: BiDet pads with -1"):
        build(sign='heaviside')


@pytest.mark.parametrize('zero', [-1, 0])
def test_every_layer_computes_its_formula(zero):
    neck, inputs = build(sign_zero=zero).eval(), maps()
    outputs = neck(inputs)
    x, expected = inputs[1], []
    for layers, (stride, padding) in zip(neck.extra_layers, GEOMETRY, strict=True):
        for layer, *geometry in zip(layers, (1, stride), (0, padding)):
            y = binary_conv(x, layer.conv.weight, *geometry, zero)
            norm = layer.bn
            y = y / (norm.running_var + norm.eps).sqrt().view(1, -1, 1, 1)
            x = y * norm.weight.view(1, -1, 1, 1)
        expected.append(x)
    norm = inputs[0].norm(dim=1, keepdim=True)
    scale = neck.l2_norm.weight.view(1, -1, 1, 1)
    for ours, theirs in zip(outputs, [scale * inputs[0] / norm, inputs[1], *expected], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert [tuple(out.shape[1:]) for out in outputs] == [
        (width, size, size) for width, size in zip(WIDTHS, (38, 19, 10, 5, 3, 1))
    ]


@pytest.mark.parametrize(('tau', 'groups'), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_every_convolution_is_binary_and_costs_what_the_baseline_costs(tau, groups):
    baseline, neck = build(), build(tau=tau, groups=groups)
    wanted = ESConv2d if tau * groups > 1 else BinaryConv2d
    assert all(type(m.conv) is wanted for layers in neck.extra_layers for m in layers)
    convs = [m for m in neck.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 8
    for conv in convs:
        assert conv.pad_value == -1
        assert conv.weight_binarizer.attached

    def cost(model):
        layers = count_ops(Caller(model), maps(1)[0]).layers
        assert all(layer.kind == 'binary' for layer in layers)
        return [layer.bops for layer in layers], [x.binary_params for x in layers]

    assert cost(neck) == cost(baseline)


class Caller(nn.Module):
    """Calls the neck with the input for which OPs are counted, and with a second one."""

    def __init__(self, neck):
        super().__init__()
        self.neck = neck

    def forward(self, x):
        return self.neck([x, x.new_zeros(1, 32, 19, 19)])


def test_weights_start_xavier_normal_as_published_with_or_without_es():
    for options in ({}, {'tau': 2}):
        neck = build(**options)
        before = neck.extra_layers[0][1].conv.state_dict()
        weights = [k for k in before if k.endswith('weight')]
        before = before[weights[0]].clone()
        neck.init_weights()
        after = neck.extra_layers[0][1].conv.state_dict()[weights[0]]
        out, width = after.shape[:2]
        expected = (2 / (9 * (out + width))) ** 0.5
        assert after.std().item() == pytest.approx(expected, rel=0.1)
        assert not torch.equal(before, after)
        assert (neck.l2_norm.weight == 20).all()


def test_thresholds_start_apart():
    neck = build(tau=2, groups=2, spread=0.3)
    for layers in neck.extra_layers:
        for layer in layers:
            shifts = layer.conv.shift.view(4, -1)
            expected = torch.tensor([-0.6, -0.4, -0.2, 0.0])
            torch.testing.assert_close(shifts, expected[:, None].expand_as(shifts))


def test_necks_do_not_share_their_initialisation():
    first, second = build(), build()
    assert len(first.init_cfg) == len(second.init_cfg) == 2


def test_every_parameter_learns():
    neck = build(tau=2)
    sum(out.square().sum() for out in neck(maps())).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_the_scale_of_the_first_map_is_there_from_the_start():
    assert build().l2_norm.weight.eq(20).all()


def test_it_compiles_as_one_graph():
    torch._dynamo.reset()
    neck = build(tau=2).double().eval()
    compiled = torch.compile(neck, backend='aot_eager', fullgraph=True)
    x = [level.double() for level in maps()]
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), neck(x))


def test_a_batch_of_one_tests_and_says_why_it_does_not_train():
    neck = build()
    neck.eval()(maps(1))
    with pytest.raises(ValueError, match=r'batch_size=1: .* at least 2'):
        neck.train()(maps(1))


@pytest.mark.parametrize('tau', [1, 2])
def test_maps_of_another_width_are_named_at_any_batch_size(tau):
    neck = build(tau=tau).train()
    for count in (1, 2):
        with pytest.raises(ValueError, match='32'):
            neck([torch.randn(count, 16, 38, 38), torch.randn(count, 24, 19, 19)])


def test_other_errors_stay_what_they_are():
    with pytest.raises(ValueError, match='tau=3 does not divide'):
        build(tau=3)
    with pytest.raises(ValueError, match='tau=0 must be an integer'):
        build(tau=0)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(in_channels=(16, 8)), r'out_channels=.* those of in_channels=\(16, 8\)'),
        (dict(out_channels=WIDTHS[:2]), r'out_channels=\(16, 32\) must begin .* and go on'),
        (dict(out_channels=(*WIDTHS[:5], 1)), 'out_channels=.* 2 channels or more'),
        (dict(level_strides=(2, 2)), r'level_strides=\(2, 2\) must have a value for each .* has 4'),
        (dict(level_paddings=(-1,) * 4), 'level_paddings=.* must be'),
        (dict(norm_cfg=dict(type='Nothing')), "norm_cfg={'type': 'Nothing'}: "),
        (dict(norm_cfg=dict(type='GN', num_groups=5)), 'norm_cfg=.*num_groups'),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
