import pytest
import torch
from torch import nn

import mmesbnn
from mmesbnn.binary import BinaryConv2d
from mmesbnn.models.backbones import BNext, ReActNet

pytest.importorskip('openvino')

import numpy as np
import openvino as ov

from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.deploy.openvino.graph import halve
from mmesbnn.deploy.runtime.manifest import ExportError
from tests.deploy.apart import apart
from tests.deploy.graphs import constants, converted, kinds, run_graph

CHANNELS = [16, 32, 32, 64]


class Features(nn.Module):
    """A backbone with its last map averaged."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(x)[-1].mean((2, 3))


def check(backbone, size=32, **options):
    """Convert, compare with float64 and return the conversion."""
    model = Features(backbone)
    lifelike(model, torch.randn(2, 3, size, size))
    x = apart(model, lambda: torch.randn(2, 3, size, size))
    conversion, y = converted(model, x, **options)
    with torch.no_grad():
        expected = model.double()(x.double()).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
    return conversion


@pytest.mark.parametrize('tau, groups', [(1, 1), (2, 1), (2, 2)])
def test_bnext(tau, groups):
    arch = dict(channels=[32, 64, 64, 128] if groups > 1 else CHANNELS)
    conversion = check(BNext(arch, tau=tau, groups=groups))
    assert len(conversion.layers) == 8 and not conversion.not_binary
    found = kinds(conversion.graph)
    assert found['BinaryConvolution'] == 8 * groups
    assert 'Select' not in found and 'ShapeOf' not in found


def test_pooling_of_odd_maps():
    check(BNext(dict(channels=CHANNELS), tau=2), size=22)


@pytest.mark.parametrize('generalized', [True, False])
def test_reactnet_and_bireal(generalized):
    arch = dict(channels=[16, 16, 32], depths=[1, 1])
    backbone = ReActNet(arch, tau=2, generalized=generalized, stem_stride=1)
    conversion = check(backbone, size=16)
    assert all(layer.binary for layer in conversion.layers)


def test_binary_vit():
    from mmesbnn.models.backbones import BinaryViT

    arch = dict(dims=[16, 32], depths=[1, 1], heads=[1, 2], ffn_dims=[32, 64], sr_ratios=[2, 1])
    conversion = check(BinaryViT(arch, img_size=32, tau=2))
    real = {layer.operator for layer in conversion.not_binary}
    assert real == {'binary_matmul'}
    assert all('two activations' in layer.reason for layer in conversion.not_binary)
    assert sum(layer.binary for layer in conversion.layers) > 10


def test_binarized_network():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, 2, 1),
                nn.BatchNorm2d(32),
                nn.ReLU(),
                nn.Conv2d(32, 32, 3, padding=1),
                nn.BatchNorm2d(32),
                nn.ReLU(),
            )
            self.head = nn.Linear(32, 5)

        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

    model = Plain()
    mmesbnn.binarize(model, tau=2)
    lifelike(model, torch.randn(2, 3, 12, 12))
    x = apart(model, lambda: torch.randn(2, 3, 12, 12))
    conversion, y = converted(model, x)
    with torch.no_grad():
        expected = model.double()(x.double()).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
    assert conversion.layers and not conversion.not_binary


def test_drop_in_layers_behind_norms_without_statistics():
    """Signs of zero sums meet thresholds of 0, so the rounding of torch would decide them."""

    def unit(inputs, outputs):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return conv, nn.BatchNorm2d(outputs), nn.ReLU()

    model = nn.Sequential(*unit(3, 64), *unit(64, 64), *unit(64, 64), *unit(64, 64)).eval()
    mmesbnn.binarize(model, keep=['9'])
    x = apart(model, lambda: torch.randn(2, 3, 12, 12))
    conversion, y = converted(model, x)
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert len(conversion.layers) == 2


def test_any_batch():
    model = lifelike(Features(BNext(dict(channels=CHANNELS), tau=2)), torch.randn(2, 3, 32, 32))
    conversion, _ = converted(model, torch.randn(1, 3, 32, 32), dynamic_batch=True)
    for batch in (3, 1):
        x = apart(model, lambda batch=batch: torch.randn(batch, 3, 32, 32))
        conversion.graph.reshape([batch, 3, 32, 32])
        (y,) = run_graph(conversion.graph, x)
        with torch.no_grad():
            expected = model(x).numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


def test_half_precision_files():
    model = lifelike(Features(BNext(dict(channels=CHANNELS), tau=2)), torch.randn(2, 3, 32, 32))
    x = torch.randn(1, 3, 32, 32)
    conversion, y = converted(model, x)
    bits = sum(n.get_byte_size() for n in constants(conversion.graph, ov.Type.u1))
    full = sum(n.get_byte_size() for n in constants(conversion.graph, ov.Type.f32))
    halve(conversion.graph)
    left = sum(n.get_byte_size() for n in constants(conversion.graph, ov.Type.f32))
    half = sum(n.get_byte_size() for n in constants(conversion.graph, ov.Type.f16))
    assert left + half < 0.65 * full
    assert bits == sum(n.get_byte_size() for n in constants(conversion.graph, ov.Type.u1))
    thresholds = [
        n.input_value(1).get_node()
        for n in conversion.graph.get_ops()
        if n.get_type_name() == 'FakeQuantize'
    ]
    assert all(n.get_element_type() == ov.Type.f32 for n in thresholds)
    rounded = run_graph(conversion.graph, x)[0]
    assert not np.array_equal(rounded, y)
    assert np.linalg.norm(rounded - y) < 0.5 * np.linalg.norm(y)


def test_soft_weights_are_refused_by_name():
    backbone = BNext(dict(channels=CHANNELS))
    with pytest.raises(
        ExportError, match=r'backbone.stages.0.0.spatial.conv: its temperature is 1,'
    ):
        converted(Features(backbone), torch.randn(1, 3, 32, 32))


def test_broken_weights_are_refused_by_name():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = BinaryConv2d(8, 8, 1)

        def forward(self, x):
            return self.conv(x)

    for value in (float('nan'), 0.0):
        model = Net()
        with torch.no_grad():
            if value == 0:
                model.conv.weight[2] = 0
            else:
                model.conv.weight[2, 0] = value
        with pytest.raises(ExportError, match=r'^conv: (its )?weights'):
            converted(model, torch.randn(1, 8, 4, 4))


def test_unknown_operators_are_named():
    class Net(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    with pytest.raises(ExportError, match=r'cannot convert the model: .*svd'):
        converted(Net(), torch.randn(1, 1, 4, 4))


class Pooled(nn.Module):
    def forward(self, x):
        return nn.functional.max_pool2d(x, 2, 2, ceil_mode=True)


def test_shapes_that_openvino_refuses_are_an_export_error():
    x = torch.randn(1, 4, 4, 1)
    Pooled()(x)  # torch does not refuse them
    with pytest.raises(ExportError, match=r'OpenVINO cannot convert the model: .*kernel'):
        converted(Pooled(), x)


class WholeMap(nn.Module):
    """A pooling whose window is the map, as in mmpretrain's GeneralizedMeanPooling."""

    def __init__(self):
        super().__init__()
        self.conv = BinaryConv2d(8, 8, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return nn.functional.avg_pool2d(y.abs().pow(3), (y.size(-2), y.size(-1))).flatten(1)


@pytest.mark.parametrize('dynamic_batch', [False, True])
def test_a_window_of_the_size_of_a_map(dynamic_batch):
    model, x = WholeMap().eval(), torch.randn(2, 8, 6, 5)
    conversion, y = converted(model, x, dynamic_batch=dynamic_batch)
    assert conversion.layers[0].binary
    np.testing.assert_allclose(y, model(x).detach(), rtol=1e-5)


def test_a_network_of_two_images_has_no_native_form():
    class Pair(nn.Module):
        def forward(self, x):
            return x.reshape(2, 3, 16) * 2

    conversion, y = converted(Pair(), torch.ones(2, 3, 4, 4), with_native=True)
    assert (y == 2).all()
    assert conversion.native.startswith('the network does not run on one image: OpenVINO')
