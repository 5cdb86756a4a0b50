"""Norms and random numbers that the reference implementations share."""

import torch
import torch.nn.functional as F

NORM = ('weight', 'bias', 'running_mean', 'running_var')


def norm_shapes(prefix, width):
    """Return names and shapes of a batch norm in a file."""
    shapes = {f'{prefix}.{name}': (width,) for name in NORM}
    return {**shapes, f'{prefix}.num_batches_tracked': ()}


def batch_norm(x, state, prefix, shape=(1, -1, 1, 1)):
    """Apply batch norm ``prefix`` to maps, or with ``shape=(-1,)`` to tokens ``(N, L, C)``."""
    weight, bias, mean, var = (state[f'{prefix}.{name}'].reshape(shape) for name in NORM)
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def halve(x):
    return F.avg_pool2d(x, 2)


def bidet_conv(x, weight, bias=None, stride=1, padding=1, dilation=1):
    """Compute BiDet's convolution: sign(0) is 0, padding -1, weights ``mean |w| sign(w)``."""
    weight = weight.abs().mean((1, 2, 3), keepdim=True) * weight.sign()
    x = F.pad(x.sign(), (padding,) * 4, value=-1)
    return F.conv2d(x, weight, bias, stride, 0, dilation)


def uniform_numbers(rng):
    """Return a function that draws float64 tensors of a shape between two bounds."""

    def uniform(shape, low, high):
        return torch.rand(shape, generator=rng, dtype=torch.double) * (high - low) + low

    return uniform
