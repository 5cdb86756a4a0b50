"""The published style computes what our networks do, gradients and statistics included."""

import pytest
import torch

from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.binary import BinaryConv2d, BinaryLinear, TiledBatchNorm2d
from mmesbnn.models.layers.pooling import AveragePool, MaxPool
from tests.families import BACKBONES
from tests.models.backbones import spread, step
from tools.benchmarks.published_style import published_style

NETWORKS = (
    'bnext',
    'es-bnext',
    'bnext-18',
    'es-reactnet-a',
    'es-reactnet-18',
    'binary-vit',
    'es-binary-vit',
)


@pytest.mark.parametrize('name', NETWORKS)
def test_outputs_gradients_and_statistics_agree(name):
    row = BACKBONES[name]
    ours = spread(row.build()).double().train()
    theirs = published_style(ours)
    own = (BinaryConv2d, BinaryLinear, TiledBatchNorm2d, AveragePool, MaxPool)
    assert not any(isinstance(module, own) for module in theirs.modules())
    (x,) = row.images()
    torch.testing.assert_close(step(ours, x.double()), step(theirs, x.double()))
    found = {id(p): p.grad for p in theirs.parameters()}
    assert len(found) == len(list(ours.parameters()))
    gradients = [sorted(p.grad.abs().sum().item() for p in m.parameters()) for m in (ours, theirs)]
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-6, abs=1e-9)
    means = [
        sorted(b.sum().item() for n, b in m.named_buffers() if n.endswith('running_var'))
        for m in (ours, theirs)
    ]
    assert means[0] == pytest.approx(means[1], rel=1e-9)


def test_inference_agrees():
    model = lifelike(BACKBONES['es-bnext'].build(), torch.randn(2, 3, 64, 64))
    published, x = published_style(model), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert not published.training
    with torch.no_grad():
        torch.testing.assert_close(published.double()(x), model.double()(x))
