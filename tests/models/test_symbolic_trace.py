"""torch.fx traces the backbones, so that feature extractors find their stages."""

import pytest
import torch

from mmesbnn.models.backbones import BiDetResNet, BiDetVGG, BinaryViT, BNext, ReActNet
from tests.models.backbones import spread

SMALL = dict(channels=[8, 8, 16], depths=[1, 1])
BACKBONES = {
    BNext: dict(arch=SMALL, se_ratio=4),
    ReActNet: dict(arch=SMALL),
    BiDetResNet: dict(widths=(8, 8, 16), depths=(1, 1)),
    BiDetVGG: dict(arch=dict(channels=[8, 8, 16, 16], depths=[1, 1]), out_indices=(0, 2)),
    BinaryViT: dict(
        arch=dict(dims=[8, 16], depths=[1, 1], heads=[1, 2], ffn_dims=[16, 32], sr_ratios=[2, 1]),
        img_size=32,
        out_indices=(0, 1),
    ),
}


@pytest.mark.parametrize('tau', [1, 2])
@pytest.mark.parametrize('kind', BACKBONES)
def test_traced_backbones_compute_the_same(kind, tau):
    net = spread(kind(**BACKBONES[kind], tau=tau)).eval()
    traced = torch.fx.symbolic_trace(net)
    for size in (32, 64) if kind is not BinaryViT else (32,):
        x = torch.randn(2, 3, size, size)
        ours, theirs = net(x), traced(x)
        assert len(ours) == len(theirs) > 0
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_traced_backbone_trains():
    net = BNext(**BACKBONES[BNext], tau=2).train()
    traced = torch.fx.symbolic_trace(net)
    traced(torch.randn(2, 3, 32, 32))[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_feature_extractor_finds_a_stage():
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    net = BNext(**BACKBONES[BNext], tau=2, out_copies='all', out_indices=(0,)).eval()
    found = extraction.create_feature_extractor(net, {'stages.0.0': 'stage'})
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found(x)['stage'], net(x)[0])
