"""Networks that tests pack."""

from pathlib import Path

import torch
from torch import nn

from mmesbnn.binary import (
    BinaryConv2d,
    BinaryLinear,
    ESConv2d,
    Expansion,
    ShrunkConv2d,
    TiledBatchNorm2d,
)
from mmesbnn.deploy import load_packed, pack
from tests.analysis.digits import set_temperature

ROOT = Path(__file__).resolve().parents[3]

BINARIZERS = [
    dict(type='temperature'),
    dict(type='scaled_sign'),
    dict(type='scaled_sign', attached=True),
    dict(type='centred_sign'),
]


def shaken(model):
    """Return ``model``, binary and in eval mode, with random parameters and statistics."""
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            copies = getattr(module, 'copies', 1)
            small = module.num_features // copies
            module.running_mean.copy_(torch.randn(small).repeat(copies))
            module.running_var.copy_(torch.rand(small).add(0.5).repeat(copies))
    return set_temperature(model, 0.0).eval()


class Net(nn.Module):
    """One layer of each kind and a tiled norm."""

    def __init__(self, binarizer):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.grouped = ShrunkConv2d(
            3,
            12,
            3,
            stride=2,
            padding=1,
            expansion=Expansion(2, 2),
            pad_value=-1,
            weight_binarizer=binarizer,
        )
        self.norm = TiledBatchNorm2d(48, 8)
        self.wide = BinaryConv2d(48, 7, 3, dilation=2, weight_binarizer=binarizer)
        self.dense = ESConv2d(7, 8, 1, tau=2, weight_binarizer=binarizer)
        self.linear = BinaryLinear(8, 4, bias=True, weight_binarizer=binarizer)

    def forward(self, x):
        x = self.wide(self.norm(self.grouped(self.stem(x))))
        return self.linear(self.dense(x).mean((2, 3)) - 0.5)


def same_after_packing(model, fresh, x, path, **options):
    """Pack ``model``, load it into ``fresh``; return the outputs of both."""
    report = pack(model, path, **options)
    assert report.size == path.stat().st_size
    loaded = load_packed(path, fresh)
    assert loaded is fresh
    with torch.no_grad():
        return model(x), loaded(x)


def soft(model):
    set_temperature(model, 0.25)
