"""A rule computes what torch computes, whatever the axes, or says why it does not."""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('openvino')

from mmesbnn import native
from mmesbnn.deploy.openvino.graph import to_openvino

needs_library = pytest.mark.skipif(
    not native.available(), reason='the native kernels are not compiled'
)

# Axes of one size are the easiest to mix up, and those of size 1 can be any axis.
SHAPES = [
    (4,), (1, 4), (2, 4), (4, 4), (1, 1, 4), (4, 1, 1), (4, 4, 4), (4, 4, 1, 1), (2, 2, 4, 4),
    (4, 4, 4, 4), (2, 1, 2, 2, 3),
]  # fmt: skip


def linear(x, outputs):
    weight = torch.linspace(-1, 1, outputs * x.shape[-1]).reshape(outputs, -1)
    return nn.functional.linear(x, weight)


def mean(x):
    return x.mean((-2, -1)) if x.dim() > 3 else x.mean(-1)


OPERATORS = {
    'linear to 1': lambda x: linear(x, 1),
    'linear to 4': lambda x: linear(x, 4),
    'linear to 5': lambda x: linear(x, 5),
    'add its mean': lambda x: x + mean(x),
    'add its mean in the same axes': lambda x: x + x.mean((-2, -1), keepdim=True),
    'mean': mean,
    'mean of channels': lambda x: x.mean(1),
    'constant at the end': lambda x: x * torch.arange(1.0, x.shape[-1] + 1),
    'constant at axis 1': lambda x: x * torch.arange(1.0, 5).view(4, *(1,) * (x.dim() - 2)),
    'constant with more axes': lambda x: x * torch.arange(1.0, 5).view(1, 4, 1, 1),
    'PReLU': lambda x: nn.functional.prelu(x, torch.tensor([0.5])),
    'PReLU of 4': lambda x: nn.functional.prelu(x, torch.arange(4.0)),
    'minus': lambda x: x * -1,
    'sigmoid': lambda x: x.sigmoid(),
    'slice': lambda x: x[:, -1:],
    'slice of the last axis': lambda x: x[..., :1],
    'split': lambda x: torch.stack(x.chunk(2, 1)[::-1], 1).flatten(1, 2),
    'tile': lambda x: x.repeat(1, 2, *(1,) * (x.dim() - 2)),
    'tile of more axes': lambda x: x.repeat(1, 2, *(1,) * (x.dim() - 1)),
    'broadcast': lambda x: x[:, :1].expand(1, 6, *x.shape[2:]) * 2,
    'broadcast to more axes': lambda x: x[:, :1].expand(1, 1, 6, *x.shape[2:]) * 2,
    'broadcast the last axis': lambda x: x[..., :1].expand(*x.shape[:-1], 5) * 2,
    'join': lambda x: torch.cat([x * 2, x.relu()], 1),
    'join the last axes': lambda x: torch.cat([x * 2, x.relu()], -1),
    'join linear layers': lambda x: torch.cat([linear(x, 4), linear(x, 4) + 1], 1),
    'add an axis': lambda x: x.unsqueeze(1) * 2,
    'add an axis at the end': lambda x: x.unsqueeze(-1) * 2,
    'merge axes': lambda x: x.flatten(1, 2),
    'flatten': lambda x: x.flatten(1) * 2,
    'swap axes': lambda x: x.transpose(1, -1) * 2,
    'pool 1d': lambda x: nn.functional.max_pool1d(x, 2),
    'pool 2d': lambda x: nn.functional.avg_pool2d(x, 2),
    'pool 2d of 3': lambda x: nn.functional.max_pool2d(x, 3, 1, 1),
    'pool 3d': lambda x: nn.functional.avg_pool3d(x, 2),
    'convolve 1d': lambda x: nn.functional.conv1d(x, torch.ones(3, 4, 1)),
    'convolve': lambda x: nn.functional.conv2d(x, torch.ones(3, 4, 1, 1)),
}

NEVER = {
    'add its mean', 'mean of channels', 'pool 1d', 'pool 3d', 'convolve 1d',
    'broadcast to more axes',
}  # fmt: skip


class Rearranged(nn.Module):
    """An operator on channels of an image that are put into other axes."""

    def __init__(self, function, shape):
        super().__init__()
        self.function, self.shape = function, shape

    def forward(self, x):
        return self.function((x.relu() + 0.25).reshape(1, *self.shape))


def image_of(shape):
    pixels = shape[-2:] if len(shape) > 2 else (1, 1)
    numbers = torch.arange(1.0, np.prod(shape) + 1).sin()
    return numbers.reshape(1, -1, *pixels)


@needs_library
@pytest.mark.parametrize('operator', OPERATORS)
def test_an_operator_is_right_or_not_covered(operator):
    covered = 0
    for shape in SHAPES:
        model, x = Rearranged(OPERATORS[operator], shape).eval(), image_of(shape)
        try:
            y = model(x).numpy()
        except (RuntimeError, IndexError):  # torch has no such operator for this shape
            continue
        form = to_openvino(model, [x], with_native=True).native
        if isinstance(form, str):
            continue
        covered += 1
        program, data = form
        (ours,) = native.Engine(np.array(program.code()), data).run(x.numpy())
        np.testing.assert_allclose(ours.reshape(y.shape), y, rtol=1e-5, atol=1e-5, err_msg=shape)
    assert bool(covered) == (operator not in NEVER)
