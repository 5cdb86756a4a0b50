"""The paper's figures as loops, and comparisons of layers with them."""

import torch
import torch.nn.functional as F

FACTORS = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (2, 4)]


def double(*shape):
    return torch.randn(shape, dtype=torch.float64)


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def signs_of(x):
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


def output_and_gradients(layer, x, upstream=None):
    x = x.clone().requires_grad_()
    y = layer(x)
    upstream = torch.ones_like(y).cumsum(1) if upstream is None else upstream
    return y, torch.autograd.grad(y, (x, *layer.parameters()), upstream)


def shrunk_map(x, weight, tau, groups, out_channels, **conv):
    """The paper's figure (c) before tiling, group by group."""
    depth, kernels = x.shape[1] // groups, out_channels // (tau * groups)
    outputs = []
    for j in range(groups):
        inputs = signs_of(x[:, j * depth : (j + 1) * depth])
        outputs.append(F.conv2d(inputs, weight[j * kernels : (j + 1) * kernels], **conv))
    shrunk = torch.cat(outputs, 1)
    assert shrunk.shape[1] == out_channels // tau
    return shrunk
