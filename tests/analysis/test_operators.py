"""Operators belong to the innermost layer that runs, also after an error."""

import pytest
import torch
from torch import nn

from mmesbnn.analysis.operators import OperatorMode
from mmesbnn.binary import BinaryConv2d
from mmesbnn.binary.modes import inference


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(1, 1, 1), BinaryConv2d(1, 1, 1))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x, fail=False):
        x = self.inner(x)
        if fail:
            raise RuntimeError('on purpose')
        return torch.bmm(x[0], x[0]) * self.scale


def run(model, **kwargs):
    seen = []
    mode = OperatorMode(model, lambda op, args, out, layer, forms: seen.append((layer, op)))
    with inference(model), mode:
        model(torch.randn(1, 1, 2, 2), **kwargs)
    return seen


def test_attribution():
    owners = {str(operator): layer for layer, operator in run(Nested())}
    assert owners['aten.convolution.default'] == 'inner.0'
    assert owners['mmesbnn.binary_conv2d.default'] == 'inner.1'
    assert owners['aten.bmm.default'] == ''


def test_cleans_up_after_an_error():
    model = Nested()
    with pytest.raises(RuntimeError, match='on purpose'):
        run(model, fail=True)
    assert model.training and torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(module._forward_hooks for module in model.modules())
    assert run(model)
