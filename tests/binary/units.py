"""Units of layers, and comparisons of their training steps with and without the kernels."""

import torch
from torch import nn

from mmesbnn.binary import LearnableShift, RSign, ShrunkConv2d, TiledBatchNorm2d
from mmesbnn.binary.activated_sums import written
from mmesbnn.binary.expansion import Expansion
from mmesbnn.binary.prelus import ChannelPReLU
from mmesbnn.binary.unit_steps import (
    activated_norm,
    gated_norm,
    normalized,
    residual_norm,
    shifted_conv,
    signed_convs,
)
from tests.binary.operators import without_kernels


class Step(nn.Module):
    """Every function of the module, for two copies."""

    def __init__(self, kind, sign='quadratic', weight='scaled_sign', copies=4, **options):
        super().__init__()
        self.kind, self.copies, wide, small = kind, copies, 16, 16 // copies
        self.shift, self.sign = LearnableShift(wide), RSign(wide, sign)
        expansion = Expansion(2) if copies == 4 else Expansion()
        self.conv = ShrunkConv2d(
            wide // expansion.factor,
            wide // expansion.factor,
            3,
            padding=1,
            expansion=expansion,
            sign=sign if kind == 'shifted' else None,
            weight_binarizer=weight,
            **options,
        )
        if weight == 'temperature':
            self.conv.weight_binarizer.temperature.fill_(1e-9)
        self.norm = TiledBatchNorm2d(
            wide, copies if kind in ('norm', 'activated', 'residual') else 1
        )
        self.act = nn.Sequential(LearnableShift(wide), ChannelPReLU(wide), LearnableShift(wide))
        self.small = small
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x, gate):
        if self.kind == 'shifted':
            return written(shifted_conv(x, self.shift, self.conv)[0])
        if self.kind == 'signed':
            return written(signed_convs(x, self.sign, [self.conv])[0])
        if self.kind == 'activated':
            y, mean = activated_norm(x[:, : self.small] * 1, self.norm, self.act[1], self.copies)
            return written(y) * mean.sigmoid()
        if self.kind == 'residual':
            return residual_norm(x[:, : self.small] * 1, self.norm, x, self.copies, self.act)
        if self.kind == 'norm':
            return normalized(x[:, : self.small] * 1, self.norm, self.copies)
        if self.kind == 'plain residual':
            return residual_norm(x.sin(), self.norm, x, 1)
        return gated_norm(x.sin(), gate, x, self.norm, multiplies=self.kind == 'product')


KINDS = {
    'shifted': '_SignedConv',
    'signed': '_SignedConv',
    'norm': '_Norm',
    'activated': '_Norm',
    'residual': '_Norm',
    'plain residual': '_Norm',
    'gated': '_Norm',
    'product': '_Norm',
}


def results(step, x, gate, run=None):
    """Return result, gradients and running statistics of a step of training."""
    x, gate = x.clone().requires_grad_(), gate.clone().requires_grad_()
    y = (run or step)(x, gate)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    gradients = {name: p.grad for name, p in step.named_parameters()}
    return dict(gradients, y=y.detach(), x=x.grad, gate=gate.grad, **dict(step.named_buffers()))


def assert_rounding(found, expected):
    assert found.keys() == expected.keys()
    for name, theirs in expected.items():
        assert (found[name] is None) == (theirs is None), name
        if theirs is not None:
            bound = 2e-5 * max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(found[name], theirs, rtol=0, atol=bound, msg=name)


def assert_layer_trains_alike(layer, x):
    """Compare a step of a layer on the kernels with one without them."""

    def run(x, unused):
        return layer(x) + 0 * unused.sum()

    layer.zero_grad()
    expected = without_kernels(results, layer, x, x, run)
    layer.zero_grad()
    assert_rounding(results(layer, x, x, run), expected)


def inputs(*size):
    torch.manual_seed(0)
    return torch.randn(*size) * 2, torch.rand(size[0], size[1], 1, 1)


class Pair(nn.Module):
    """A convolution and the norm behind it, for four copies."""

    def __init__(self, weight='scaled_sign'):
        super().__init__()
        self.step = Step('residual', weight=weight)

    def forward(self, x, unused):
        step = self.step
        y, x, _ = shifted_conv(x, step.shift, step.conv)
        return residual_norm(y, step.norm, x, step.copies, step.act)


class Unit(nn.Module):
    """A convolution, a norm with its PReLU, and a gated norm that reads their result."""

    def __init__(self, copies=4, multiplies=False):
        super().__init__()
        self.conv = Step('shifted', copies=copies)
        self.inner, self.outer = Step('activated', copies=copies), Step('gated')
        self.multiplies = multiplies

    def activated(self, x):
        y, x, _ = shifted_conv(x, self.conv.shift, self.conv.conv)
        return *activated_norm(y, self.inner.norm, self.inner.act[1], self.inner.copies), x

    def forward(self, x, gate):
        y, mean, x = self.activated(x)
        gate = (gate + mean).sigmoid()
        return gated_norm(y, gate, x, self.outer.norm, multiplies=self.multiplies)
