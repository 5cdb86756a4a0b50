"""An independent implementation of the published BI-DiffSR network.

Random files in the published format, and the noise that the published network predicts
from such a file in evaluation, written as plain functions of tensors from the formulas.
It shares no code with mmesbnn. It was compared with the published code itself
(``b95eb3a``): for three networks and all banks outputs agree to 1e-14.

Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution" (2024), as
its repository's code computes it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Network:
    """The published constructor's arguments.

    Args:
        inner: Channels of the first level.
        mults: How many times more the levels have.
        blocks: Residual blocks per level.
        norm_groups: Groups of the group norms.
        attn: Levels with attention.
        real: Levels whose decoder is full precision.
        banks: Sets of shifts and activations.
        steps: Timesteps of the schedule.
        channels: Of the input and of the output.
    """

    inner: int = 8
    mults: tuple = (1, 2, 4)
    blocks: int = 1
    norm_groups: int = 4
    attn: tuple = ()
    real: tuple = (0,)
    banks: int = 5
    steps: int = 2000
    channels: tuple = (6, 3)

    @property
    def widths(self):
        return [self.inner * mult for mult in self.mults]


PUBLISHED = Network(64, (1, 2, 4, 8), 2, 16, (), (0, 1))


# ------------------------------------------------------------------ what there is


def layers(net):
    """Yield every layer in order: prefix, kind, width and options."""
    yield 'downs.0.', 'first', net.inner, {}
    index, last = 1, len(net.widths) - 1
    for level, width in enumerate(net.widths):
        for _ in range(net.blocks):
            yield f'downs.{index}.', 'block', width, dict(attn=level in net.attn)
            index += 1
        if level < last:
            yield f'downs.{index}.', 'down', width, {}
            index += 1
    yield 'mid.0.', 'middle', net.widths[-1], dict(attn=True)
    yield 'mid.1.', 'middle', net.widths[-1], {}
    index = 0
    for level in reversed(range(last + 1)):
        width, real = net.widths[level], level in net.real
        for _ in range(net.blocks + 1):
            yield f'ups.{index}.', 'fusion', width, dict(real=real)
            options = dict(attn=level in net.attn, real=real)
            yield f'ups.{index + 1}.', 'up block', width, options
            index += 2
        if level:
            yield f'ups.{index}.', 'up', width, {}
            index += 1


def _affine(prefix, *weight):
    return {f'{prefix}weight': weight, f'{prefix}bias': weight[:1]}


def _conv_shapes(prefix, width, kernel, net, real=False):
    if real:
        return _affine(prefix, width, width, kernel, kernel)
    shapes = {f'{prefix}binary_conv.weight': (width, width, kernel, kernel)}
    for bank in range(net.banks):
        activation = f'{prefix}TaA.dynamic_relu_{bank}.'
        shapes[f'{prefix}TaR.dynamic_move_{bank}.bias'] = (1, width, 1, 1)
        shapes[f'{activation}pr_bias0.bias'] = (1, width, 1, 1)
        shapes[f'{activation}pr_prelu.weight'] = (width,)
        shapes[f'{activation}pr_bias1.bias'] = (1, width, 1, 1)
    return shapes


def _block_shapes(prefix, width, net, real=False, attn=False):
    shapes = _affine(f'{prefix}res_block.timestep_func.1.', width, net.inner)
    shapes[f'{prefix}res_block.timestep_func.1.bias'] = (width,)
    for half in (1, 2):
        inner = f'{prefix}res_block.block{half}.'
        shapes |= _affine(f'{inner}block.0.', width)
        shapes |= _conv_shapes(f'{inner}conv.', width, 3, net, real)
    if attn:
        shapes |= _affine(f'{prefix}attn.norm.', width)
        shapes[f'{prefix}attn.qkv.weight'] = (3 * width, width, 1, 1)
        shapes |= _affine(f'{prefix}attn.out.', width, width, 1, 1)
    return shapes


def shapes(net):
    """Return names and shapes of a published file."""
    inner = net.inner
    found = _affine('timestep_level_mlp.1.', 4 * inner, inner)
    found |= _affine('timestep_level_mlp.3.', inner, 4 * inner)
    for prefix, kind, width, options in layers(net):
        if kind == 'first':
            found |= _affine(prefix, width, net.channels[0], 3, 3)
        elif kind in ('down', 'up', 'fusion'):
            names = ('biconv_1.', 'biconv_2.')
            if kind != 'fusion':
                names = ('biconv1.', 'biconv2.')
            wide = width // 2 if kind == 'down' else width
            kernel = 1 if kind == 'fusion' else 3
            for name in names:
                found |= _conv_shapes(prefix + name, wide, kernel, net, **options)
        else:
            found |= _block_shapes(prefix, width, net, **options)
    found |= _affine('final_conv.block.0.', inner)
    return found | _affine('final_conv.block.3.', net.channels[1], inner, 3, 3)


def random_state(net, seed=0):
    """Return a file with random entries; the entries of every bank differ."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(net).items():
        value = torch.randn(shape, generator=generator, dtype=torch.double)
        norm = '.block.0.' in name or '.norm.' in name
        if norm and name.endswith('weight'):
            value = 1 + 0.3 * value
        elif (len(shape) == 4 and shape[0] > 1) or len(shape) == 2:
            value = value / math.sqrt(value[0].numel())
        else:
            value = 0.3 * value
        state[name] = value
    return state


# ------------------------------------------------------------------ what it computes


def _swish(x):
    return x * torch.sigmoid(x)


def _norm(state, prefix, x, net):
    n, c, h, w = x.shape
    groups = x.reshape(n, net.norm_groups, -1)
    mean = groups.mean(2, keepdim=True)
    variance = groups.var(2, unbiased=False, keepdim=True)
    x = ((groups - mean) / torch.sqrt(variance + 1e-5)).reshape(n, c, h, w)
    weight, bias = state[f'{prefix}weight'], state[f'{prefix}bias']
    return x * weight.view(1, c, 1, 1) + bias.view(1, c, 1, 1)


def _conv(state, prefix, x, bank):
    """Compute a binary convolution with its shortcut, or a plain one."""
    if f'{prefix}weight' in state:
        weight = state[f'{prefix}weight']
        padding = weight.shape[-1] // 2
        return F.conv2d(x, weight, state[f'{prefix}bias'], padding=padding)
    weight = state[f'{prefix}binary_conv.weight']
    weight = weight.sign() * weight.abs().mean((1, 2, 3), keepdim=True)
    signs = torch.sign(x + state[f'{prefix}TaR.dynamic_move_{bank}.bias'])
    y = F.conv2d(signs, weight, padding=weight.shape[-1] // 2)
    act = f'{prefix}TaA.dynamic_relu_{bank}.'
    y = y + state[f'{act}pr_bias0.bias']
    slope = state[f'{act}pr_prelu.weight'].view(1, -1, 1, 1)
    y = y.clamp(min=0) + slope * y.clamp(max=0)
    return x + y + state[f'{act}pr_bias1.bias']


def _attention(state, prefix, x, net):
    n, c, h, w = x.shape
    qkv = F.conv2d(_norm(state, f'{prefix}norm.', x, net), state[f'{prefix}qkv.weight'])
    query, key, value = qkv.flatten(2).chunk(3, 1)
    weights = torch.softmax(query.transpose(1, 2) @ key / math.sqrt(c), -1)
    mixed = (value @ weights.transpose(1, 2)).reshape(n, c, h, w)
    out = state[f'{prefix}out.weight']
    return x + F.conv2d(mixed, out, state[f'{prefix}out.bias'])


def _block(state, prefix, x, time, bank, net):
    inner = f'{prefix}res_block.'
    h = _swish(_norm(state, f'{inner}block1.block.0.', x, net))
    h = _conv(state, f'{inner}block1.conv.', h, bank)
    weight = state[f'{inner}timestep_func.1.weight']
    moved = F.linear(_swish(time), weight, state[f'{inner}timestep_func.1.bias'])
    h = _swish(_norm(state, f'{inner}block2.block.0.', h + moved[:, :, None, None], net))
    y = x + _conv(state, f'{inner}block2.conv.', h, bank)
    if f'{prefix}attn.qkv.weight' in state:
        y = _attention(state, f'{prefix}attn.', y, net)
    return y


def _embedding(state, t, net):
    half = net.inner // 2
    frequencies = [10 ** (-4 * i / half) for i in range(half)]
    angles = t.double()[:, None] * torch.tensor(frequencies, dtype=torch.double)
    x = torch.cat([angles.sin(), angles.cos()], 1)
    x = F.linear(x, *(state[f'timestep_level_mlp.1.{n}'] for n in ('weight', 'bias')))
    x = _swish(x)
    return F.linear(x, *(state[f'timestep_level_mlp.3.{n}'] for n in ('weight', 'bias')))


def _resample(state, prefix, kind, x, bank):
    if kind == 'down':
        first, second = x.chunk(2, 1)
        y = _conv(state, f'{prefix}biconv1.', first, bank)
        return F.pixel_unshuffle(y + _conv(state, f'{prefix}biconv2.', second, bank), 2)
    both = [_conv(state, f'{prefix}biconv{i}.', x, bank) for i in (1, 2)]
    return F.pixel_shuffle(torch.cat(both, 1), 2)


def _fuse(state, prefix, x, skip, bank):
    odd_even = torch.cat([x[:, 1::2], skip[:, 0::2]], 1)
    even_odd = torch.cat([x[:, 0::2], skip[:, 1::2]], 1)
    first = _conv(state, f'{prefix}biconv_1.', odd_even, bank)
    return first + _conv(state, f'{prefix}biconv_2.', even_odd, bank)


def predict(state, net, condition, noisy, t):
    """Return the predicted noise, ``(N, C, H, W)``; the first timestep chooses the bank.

    Args:
        state: A published file's entries, float64.
        net: The network.
        condition: Upsampled image ``(N, C, H, W)``.
        noisy: Noisy image, the same.
        t: Timesteps ``(N,)``.
    """
    bank = min(max(int(t[0].item() * net.banks / net.steps), 0), net.banks - 1)
    time = _embedding(state, t, net)
    x, features = torch.cat([condition, noisy], 1), []
    for prefix, kind, _, _ in layers(net):
        if kind == 'first':
            x = _conv(state, prefix, x, bank)
        elif kind in ('down', 'up'):
            x = _resample(state, prefix, kind, x, bank)
        elif kind == 'fusion':
            x = _fuse(state, prefix, x, features.pop(), bank)
        else:
            x = _block(state, prefix, x, time, bank, net)
        if prefix.startswith('downs'):
            features.append(x)
    x = _swish(_norm(state, 'final_conv.block.0.', x, net))
    return _conv(state, 'final_conv.block.3.', x, bank)
