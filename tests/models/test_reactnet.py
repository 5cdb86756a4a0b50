"""ReActNet and Bi-Real Net: formulas, published sizes, ES, stages, bad arguments."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmesbnn.analysis import count_ops
from mmesbnn.binary import BinaryConv2d, Expansion
from mmesbnn.models.backbones.reactnet import ReActNet, ReActUnit
from tests.models.backbones import binary_convs, spread

# three stages of widths 16, 32, 64 and strides 1, 2, 4
NARROW = dict(channels=[8, 16, 32, 32, 64])
NARROW_18 = dict(channels=[8, 16, 32], depths=[1, 2])
FACTORS = [(1, 1), (2, 1), (1, 2), (2, 2)]
LAYOUTS = [
    pytest.param(dict(arch=NARROW), id='A'),
    pytest.param(dict(arch=NARROW_18), id='18'),
    pytest.param(dict(arch=NARROW_18, generalized=False), id='Bi-Real'),
    pytest.param(dict(arch=NARROW, tau=2), id='ES-A'),
    pytest.param(dict(arch=NARROW_18, tau=2), id='ES-18'),
    pytest.param(dict(arch=NARROW_18, tau=2, generalized=False), id='ES-Bi-Real'),
]


def narrow(arch=NARROW, **options):
    return ReActNet(arch, **{'stem_stride': 1, **options})


def images(count=2, height=8, width=None):
    return torch.randn(count, 3, height, width or height)


# the unit's formula ---------------------------------------------------------------


def sign(x):
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


def tiled_norm(y, norm, copies):
    y = torch.cat([y] * copies, 1)
    mean = y.mean((0, 2, 3), keepdim=True)
    var = ((y - mean) ** 2).mean((0, 2, 3), keepdim=True)
    y = (y - mean) / (var + 1e-5).sqrt()
    return y * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def by_formula(unit, x, expansion, stride):
    """Compute the unit's training output from its parameters only."""
    tau, groups = expansion
    copies = tau * tau * groups
    state = dict(unit.named_parameters())
    signs = sign(x + state['sign.shift.bias']) if 'sign.shift.bias' in state else sign(x)
    residual = F.avg_pool2d(x, 2) if stride == 2 else x
    if 'shortcut.conv.weight' in state:
        residual = F.conv2d(residual, state['shortcut.conv.weight'], groups=groups)
        residual = tiled_norm(residual, unit.shortcut.norm, copies)
    outputs = []
    for conv, norm in zip(unit.convs, unit.norms):
        scale = conv.weight.abs().mean((1, 2, 3), keepdim=True)
        y = F.conv2d(
            signs,
            scale * sign(conv.weight),
            stride=stride,
            padding=conv.weight.shape[-1] // 2,
            groups=groups,
        )
        outputs.append(tiled_norm(y, norm, copies) + residual)
    y = torch.cat(outputs, 1)
    if 'act.0.bias' not in state:
        return y
    y = y + state['act.0.bias']
    slope = state['act.1.weight'].view(1, -1, 1, 1)
    return torch.where(y > 0, y, slope * y) + state['act.2.bias']


@pytest.mark.parametrize('generalized', [True, False])
@pytest.mark.parametrize('expansion', FACTORS)
@pytest.mark.parametrize(
    'options',
    [
        pytest.param(dict(kernel_size=3), id='3x3'),
        pytest.param(dict(kernel_size=3, stride=2), id='3x3, halved'),
        pytest.param(dict(kernel_size=1), id='1x1'),
        pytest.param(dict(kernel_size=1, branches=2), id='1x1, doubled'),
        pytest.param(dict(kernel_size=3, stride=2, out_channels=16), id='projected'),
        pytest.param(dict(kernel_size=3, out_channels=16), id='projected, not halved'),
    ],
)
def test_unit_computes_its_formula(options, expansion, generalized):
    unit = ReActUnit(
        8,
        **options,
        generalized=generalized,
        expansion=Expansion(*expansion),
        sign='quadratic',
        weight_binarizer='scaled_sign',
        norm={},
    )
    unit = spread(unit.double())
    wide = 8 * expansion[0] * expansion[1]
    x = torch.randn(2, wide, 6, 8, dtype=torch.double)
    with torch.no_grad():
        expected = by_formula(unit, x, expansion, options.get('stride', 1))
        torch.testing.assert_close(unit(x), expected, rtol=1e-10, atol=1e-10)
    out = options.get('out_channels', 8) * options.get('branches', 1)
    assert expected.shape[1] == out * expansion[0] * expansion[1]
    names = [name for name, _ in unit.named_parameters()]
    assert any('shift' in name or 'act' in name for name in names) is generalized


def test_gradients_are_the_published_ones():
    conv = narrow().stages[0][0][0].convs[0]
    with torch.no_grad():
        conv.weight.uniform_(-2, 2)
    gradient = torch.randn_like(conv.weight)
    conv.effective_weight().backward(gradient)
    # clipped to |w| <= 1, and nothing through the scale
    assert torch.equal(conv.weight.grad, gradient * (conv.weight.abs() <= 1))
    x = torch.tensor([-1.5, -0.75, 0.25, 0.0, 1.5], requires_grad=True)
    narrow(generalized=False).stages[0][0][0].sign(x).sum().backward()
    assert x.grad.tolist() == [0, 0.5, 1.5, 2, 0]


# published sizes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arch', 'first', 'stages', 'depths'),
    [
        ('A', 32, [64, 128, 256, 512, 1024], [1, 2, 2, 6, 2]),
        ('18', 64, [64, 128, 256, 512], [4, 4, 4, 4]),
        (18, 64, [64, 128, 256, 512], [4, 4, 4, 4]),
    ],
)
def test_widths_of_the_published_sizes(arch, first, stages, depths):
    with torch.device('meta'):
        model = ReActNet(arch, out_indices=range(len(stages)))
    assert model.stem.conv.out_channels == first
    assert model.out_channels == stages
    assert [len(stage) for stage in model.stages] == depths


@pytest.mark.parametrize('tau', [1, 2, 4])
@pytest.mark.parametrize(
    ('options', 'macs', 'bops', 'binary'),
    [
        (dict(arch='A'), 10_838_016, 4_816_896_000, 28_253_184),
        (dict(arch='18'), 137_281_536, 1_676_279_808, 10_985_472),
        (dict(arch='18', generalized=False), 137_281_536, 1_676_279_808, 10_985_472),
    ],
    ids=['A', '18', 'Bi-Real'],
)
def test_operations_of_the_published_sizes_at_every_tau(options, macs, bops, binary, tau):
    layers = count_ops(ReActNet(tau=tau, **options), (3, 224, 224)).layers
    assert sum(layer.fp_macs for layer in layers) == macs
    assert sum(layer.bops for layer in layers) == bops
    assert sum(layer.binary_params for layer in layers) == binary


def test_half_of_the_latent_weights_are_positive_at_first():
    for conv in binary_convs(narrow()):
        assert 0.3 < (conv.weight > 0).float().mean() < 0.7


# ES -------------------------------------------------------------------------------


@pytest.mark.parametrize('generalized', [True, False])
@pytest.mark.parametrize('arch', [NARROW, NARROW_18], ids=['A', '18'])
def test_tau_1_is_a_network_of_plain_layers(arch, generalized):
    model = spread(narrow(arch, generalized=generalized))
    plain = copy.deepcopy(model)
    for unit in plain.modules():
        if not isinstance(unit, ReActUnit):
            continue
        for i, old in enumerate(unit.convs):
            unit.convs[i] = BinaryConv2d(
                old.in_channels,
                old.out_channels,
                old.kernel_size,
                old.stride,
                old.padding,
                sign=None,
            )
            unit.convs[i].load_state_dict(old.state_dict())
            norm = nn.BatchNorm2d(unit.norms[i].num_features)
            norm.load_state_dict(unit.norms[i].state_dict())
            unit.norms[i] = norm
    x = images()
    for training in (True, False):
        (ours,), (theirs,) = model.train(training)(x), plain.train(training)(x)
        assert torch.equal(ours, theirs)
    assert torch.isfinite(ours).all()


# the two stages -------------------------------------------------------------------


@pytest.mark.parametrize('options', LAYOUTS)
def test_both_stages_have_the_same_state_dict(options):
    first = narrow(**options, weight_binarizer='real')
    second = narrow(**options)
    assert list(first.state_dict()) == list(second.state_dict())
    second.load_state_dict(first.state_dict())
    for real, binary in zip(binary_convs(first), binary_convs(second)):
        assert torch.equal(real.weight, binary.weight)
        assert torch.equal(real.effective_weight(), real.weight)
        scale = real.weight.abs().mean((1, 2, 3), keepdim=True)
        assert torch.equal(binary.effective_weight(), scale * sign(real.weight))


def test_activations_of_stage_1_are_signs():
    model = narrow(weight_binarizer='real')
    unit, seen = model.stages[0][0][0], []
    unit.convs[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images())
    assert set(seen[0].unique().tolist()) == {-1.0, 1.0}


# as a backbone --------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arch', 'stem_stride', 'strides'),
    [
        (NARROW, None, [2, 4, 8]),
        (NARROW, 1, [1, 2, 4]),
        (NARROW_18, None, [4, 8]),
        (NARROW_18, 1, [1, 2]),
    ],
)
def test_strides(arch, stem_stride, strides):
    indices = range(len(strides))
    model = ReActNet(arch, stem_stride=stem_stride, out_indices=indices).eval()
    assert model.stem.conv.kernel_size == ((7, 7) if strides[0] == 4 else (3, 3))
    sizes = [tuple(out.shape[2:]) for out in model(images(1, 32))]
    assert sizes == [(32 // stride, 32 // stride) for stride in strides]


# bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch=34), 'arch=34 must be one of'),
        (dict(arch=[8, 16]), 'must be a name or a dict'),
        (dict(arch=dict(channels=[8, 24])), '8 -> 24 does neither'),
        (dict(arch=dict(channels=[8, 16], depths=[1, 1])), r'depths=\[1, 1\]'),
        (dict(tau=3), 'tau=3 does not divide out_channels=8'),
        (dict(tau=8, groups=2), r'groups=2 does not divide out_channels / tau'),
        (dict(weight_binarizer='sign'), "weight_binarizer='sign': the type must be"),
        (dict(stem_stride=4), r'stem_stride=4 must be one of \(2, 1\)'),
        (dict(arch=NARROW_18, stem_stride=2), r'must be one of \(4, 1\)'),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        narrow(**options)


@pytest.mark.parametrize('generalized', [False, True])
def test_the_sign_is_an_option(generalized):
    options = dict(arch=dict(channels=[8, 8, 16], depths=[1, 1]), generalized=generalized)
    own, other = ReActNet(**options), ReActNet(sign=dict(type='dorefa', bits=3), **options)
    other.load_state_dict(own.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert not torch.equal(own.eval()(x)[-1], other.eval()(x)[-1])
    ones, threes = (count_ops(model, (3, 32, 32)).total for model in (own, other))
    assert threes['bops'] == 3 * ones['bops'] > 0
    assert threes['fp_macs'] == ones['fp_macs']
