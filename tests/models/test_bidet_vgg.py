"""BiDet's VGG-16: the published maps, sizes and costs, ES, and bad arguments."""

import copy

import pytest
import torch
from torch import nn

from mmesbnn.analysis import count_ops
from mmesbnn.binary import BinaryConv2d, ShrunkConv2d, TiledBatchNorm2d
from mmesbnn.models.backbones.bidet_vgg import BiDetVGG
from tests.models.backbones import binary_convs, spread
from tests.reference.published_bidet_ssd import Network, base, blocks, random_state

# strides 1, 2, 4, 4
NARROW = dict(channels=[8, 16, 16, 32, 48], depths=[1, 2, 2])
SMALL = Network(widths=(8, 8, 16, 24, 32, 32), depths=(1, 3, 4, 4, 4), tail=48)
SMALL_ARCH = dict(channels=[*SMALL.widths, SMALL.tail], depths=[*SMALL.depths])


def narrow(**options):
    return BiDetVGG(**{'arch': NARROW, 'out_indices': (1, 3), **options})


def images(count=2, height=16, width=None):
    return torch.randn(count, 3, height, width or height)


def load(model, state):
    """Copy a published layer list into a backbone; both have the same order."""
    values = iter(state.values())
    ours = model.state_dict()
    # both list convolution, norm, projection, norm, block by block
    for name in ours:
        value = next(values)
        assert value.shape == ours[name].shape, name
        ours[name] = value
    assert next(values, None) is None
    model.load_state_dict(ours)


# the published network ------------------------------------------------------------


@pytest.mark.parametrize('size', [(75, 64), (52, 52)])
def test_maps_are_the_published_ones(size):
    state = random_state(SMALL, base_only=True)
    model = BiDetVGG(SMALL_ARCH, sign_zero=0).double().eval()
    load(model, state)
    x = torch.randn(2, 3, *size, dtype=torch.double)
    x[:, :, :9] = 0
    with torch.no_grad():
        ours, theirs = model(x), base(state, SMALL, x, prefix='')
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        assert a.std() > 1e-3


def test_published_size():
    with torch.device('meta'):
        model = BiDetVGG()
    assert model.arch['depths'] == [1, 3, 4, 4, 4]
    assert model.out_channels == [512, 1024]
    assert len(list(blocks(Network()))) == sum(model.arch['depths']) == 16
    report = count_ops(model, (3, 300, 300))
    shapes = {layer.name: layer.output_shape for layer in report.layers}
    assert shapes['stages.3.3.convs.0'] == [1, 512, 38, 38]
    assert shapes['stages.5.0.pointwise'] == [1, 1024, 19, 19]


@pytest.mark.parametrize('tau', [1, 2, 4])
def test_operations_are_the_published_ones_at_every_tau(tau):
    with torch.device('meta'):
        model = BiDetVGG(tau=tau)
    layers = count_ops(model, (3, 300, 300)).layers
    # stem, projections of four stages, fc7
    macs = (
        300 * 300 * 27 * 64
        + 150 * 150 * 64 * 128
        + 75 * 75 * 128 * 256
        + 38 * 38 * 256 * 512
        + 19 * 19 * 512 * 512
        + 19 * 19 * 1024 * 1024
    )
    assert sum(layer.fp_macs for layer in layers) == macs
    assert sum(layer.bops for layer in layers) == 40_258_437_120
    assert sum(layer.binary_params for layer in layers) == 24_883_200
    real = [layer.name for layer in layers if layer.kind != 'binary']
    assert real == [
        'stem.conv',
        *(f'stages.{i}.0.shortcut.conv' for i in range(1, 5)),
        'stages.5.0.pointwise',
    ]


def test_weights_start_xavier_normal_as_published():
    model = BiDetVGG(SMALL_ARCH, tau=2)
    model.init_weights()
    for conv in [m for m in model.modules() if isinstance(m, nn.Conv2d)]:
        assert type(conv) in (nn.Conv2d, ShrunkConv2d)
        out, width, *kernel = conv.weight.shape
        fan = (out + width) * kernel[0] * kernel[1]
        expected = (2 / fan) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.2)
        assert conv.bias is None or not conv.bias.any()


def test_gradients_are_the_published_ones():
    conv = narrow().stages[1][0].convs[0]
    gradient = torch.randn_like(conv.weight)
    conv.effective_weight().backward(gradient)
    weight = conv.weight.detach()
    scale = weight.abs().mean((1, 2, 3), keepdim=True)
    # through the sign unmasked, and through the mean
    through_mean = (gradient * weight.sign()).mean((1, 2, 3), keepdim=True)
    expected = scale * gradient + weight.sign() * through_mean
    torch.testing.assert_close(conv.weight.grad, expected)


# the sign of zero, and padding ----------------------------------------------------


def test_every_binary_convolution_pads_with_minus_one():
    for conv in binary_convs(narrow()):
        assert conv.pad_value == -1
        border = conv.padding[0]
        x = torch.ones(1, conv.in_channels, 1, 1)
        padded = nn.functional.pad(x, (border,) * 4, value=-1)
        expected = nn.functional.conv2d(
            padded, conv.effective_weight(), None, conv.stride, 0, conv.dilation
        )
        torch.testing.assert_close(conv(x), expected)


# ES -------------------------------------------------------------------------------


def test_tau_1_is_a_network_of_plain_layers():
    model = spread(narrow())
    plain = copy.deepcopy(model)
    for module in plain.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, ShrunkConv2d):
                new = BinaryConv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,
                    child.stride,
                    child.padding,
                    child.dilation,
                    pad_value=-1,
                    weight_binarizer=dict(type='scaled_sign', attached=True),
                )
                new.sign = child.sign
            elif isinstance(child, TiledBatchNorm2d):
                new = nn.BatchNorm2d(child.num_features)
            else:
                continue
            new.load_state_dict(child.state_dict())
            setattr(module, name, new)
    assert not any(isinstance(m, (ShrunkConv2d, TiledBatchNorm2d)) for m in plain.modules())
    x = images()
    for training in (True, False):
        ours, theirs = model.train(training)(x), plain.train(training)(x)
        assert all(map(torch.equal, ours, theirs))


# as a backbone --------------------------------------------------------------------


def test_it_is_the_backbone_of_a_classifier():
    mmpretrain = pytest.importorskip('mmpretrain')
    model = mmpretrain.registry.MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='BiDetVGG', arch=NARROW, tau=2, out_indices=(-1,)),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=5, in_channels=48),
        )
    )
    assert model(images(2, 32)).shape == (2, 5)


# bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch=None), 'arch=None must be a name or a dict'),
        (dict(arch=dict(NARROW, strides=[2])), r"arch has the unknown keys \['strides'\]"),
        (dict(arch=dict(channels=[8, 16], depths=[])), 'channels must be'),
        (dict(arch=dict(channels=[8, 16], depths=[1])), 'channels must be'),
        (dict(arch=dict(channels=[8, 0, 8], depths=[1])), 'must be lists of integers'),
        (dict(arch=dict(channels=[8, 8, 8], depths=[0])), 'must be lists of integers'),
        (dict(tau=3), 'tau=3 does not divide out_channels=16'),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        narrow(**options)
