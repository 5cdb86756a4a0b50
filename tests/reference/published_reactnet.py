"""An independent implementation of the published ReActNets and Bi-Real Nets.

Random files in the published formats, and the logits that the published code computes
from such a file in evaluation, written as plain functions of tensors from the formulas.
It shares no code with mmesbnn. It was compared with the published code itself (ReActNet
``a6cd08d``, Bi-Real-net ``f58aa4d``): for both stages of all networks logits agree to
1e-11.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tests.reference.common import batch_norm, halve, norm_shapes, uniform_numbers


@dataclass(frozen=True)
class Network:
    """The published constructor and its widths.

    Args:
        channels: Stem's width, then that of every block, or of every stage in -18.
        depths: Blocks per stage, -18 only.
        binary: Whether weights are signs (stage 2).
        name: Of the latent weights: ``'weight'`` or ``'weights'``.
        flat: Whether they have the shape ``(N, 1)``.
        shifts: Whether there are shifts and PReLUs; Bi-Real Net has none.
        num_classes: Classes.
    """

    channels: tuple
    depths: tuple | None = None
    binary: bool = True
    name: str = 'weight'
    flat: bool = False
    shifts: bool = True
    num_classes: int = 10


def blocks(net):
    """Yield prefix, width, stride and the doubling of every block of A."""
    for i in range(1, len(net.channels)):
        width, out = net.channels[i - 1], net.channels[i]
        double = out == 2 * width
        yield f'feature.{i}.', width, 2 if double and i > 1 else 1, double


def blocks_18(net):
    """Yield prefix, input width, output width and stride of every block of -18."""
    width = net.channels[0]
    for stage, depth in enumerate(net.depths, start=1):
        for block in range(depth):
            stride = 2 if stage > 1 and block == 0 else 1
            yield f'layer{stage}.{block}.', width, net.channels[stage], stride
            width = net.channels[stage]


# ------------------------------------------------------------------ random files


def _latent(prefix, net, *shape):
    size = torch.Size(shape).numel()
    return {f'{prefix}.{net.name}': (size, 1) if net.flat else shape}


def _activation(moves, prelu, width, net):
    if not net.shifts:
        return {}
    before, after = ({f'{move}.bias': (1, width, 1, 1)} for move in moves)
    return {**before, f'{prelu}.weight': (width,), **after}


def _threshold(move, width, net):
    return {f'{move}.bias': (1, width, 1, 1)} if net.shifts else {}


def _block_shapes(p, width, double, net):
    shapes = {
        **_threshold(f'{p}move11', width, net),
        **_latent(f'{p}binary_3x3', net, width, width, 3, 3),
        **norm_shapes(f'{p}bn1', width),
        **_activation((f'{p}move12', f'{p}move13'), f'{p}prelu1', width, net),
        **_threshold(f'{p}move21', width, net),
    }
    convs = {'binary_pw': 'bn2'}
    if double:
        convs = {'binary_pw_down1': 'bn2_1', 'binary_pw_down2': 'bn2_2'}
    for conv, norm in convs.items():
        shapes.update(_latent(f'{p}{conv}', net, width, width, 1, 1))
        shapes.update(norm_shapes(f'{p}{norm}', width))
    out = len(convs) * width
    shapes.update(_activation((f'{p}move22', f'{p}move23'), f'{p}prelu2', out, net))
    return shapes


def _block_shapes_18(p, width, out, stride, net):
    shapes = {
        **_threshold(f'{p}move0', width, net),
        **_latent(f'{p}binary_conv', net, out, width, 3, 3),
        **norm_shapes(f'{p}bn1', out),
        **_activation((f'{p}move1', f'{p}move2'), f'{p}prelu', out, net),
    }
    if stride == 2 or width != out:
        shapes[f'{p}downsample.1.weight'] = (out, width, 1, 1)
        shapes.update(norm_shapes(f'{p}downsample.2', out))
    return shapes


def shapes(net):
    """Return names and shapes of a published file."""
    stem, first = ('', 7) if net.depths else ('feature.0.', 3)
    width = net.channels[0]
    found = {f'{stem}conv1.weight': (width, 3, first, first)}
    found.update(norm_shapes(f'{stem}bn1', width))
    if net.depths:
        for prefix, width, out, stride in blocks_18(net):
            found.update(_block_shapes_18(prefix, width, out, stride, net))
    else:
        for prefix, width, _, double in blocks(net):
            found.update(_block_shapes(prefix, width, double, net))
    found['fc.weight'] = (net.num_classes, net.channels[-1])
    found['fc.bias'] = (net.num_classes,)
    return found


def random_state(net, seed=0):
    """Return a random file of ``net``, float64, that uses every term of the forward.

    A third of the latent weights and, through dead stem channels, some activations are
    exactly 0.

    Args:
        net: The network.
        seed: Of the random numbers.
    """
    rng = torch.Generator().manual_seed(seed)
    uniform = uniform_numbers(rng)
    state = {}
    for name, shape in shapes(net).items():
        kind = name.rsplit('.', 1)[1]
        if '.binary_' in name:
            signs = torch.randint(-1, 2, shape, generator=rng)
            value = uniform(shape, 0.01, 1.5) * signs
        elif kind == 'num_batches_tracked':
            value = torch.tensor(7)
        elif kind == 'running_var':
            value = uniform(shape, 0.5, 2)
        elif kind == 'weight' and len(shape) in (2, 4):
            bound = (3 / torch.Size(shape[1:]).numel()) ** 0.5
            value = uniform(shape, -bound, bound)
        else:
            value = uniform(shape, -0.7, 0.9)
        state[name] = value
    stem = 'bn1' if net.depths else 'feature.0.bn1'
    for name in ('weight', 'bias', 'running_mean'):
        state[f'{stem}.{name}'][:2] = 0
    if net.shifts:
        first = 'layer1.0.move0' if net.depths else 'feature.1.move11'
        state[f'{first}.bias'][:, :2] = 0
    return state


# ------------------------------------------------------------------ logits


def _rprelu(x, state, before, prelu, after):
    x = x + state[f'{before}.bias']
    slope = state[f'{prelu}.weight'].reshape(1, -1, 1, 1)
    return x.clamp(min=0) + slope * x.clamp(max=0) + state[f'{after}.bias']


def _convolve(x, state, prefix, net, out, kernel, stride=1):
    weight = state[f'{prefix}.{net.name}'].reshape(out, x.shape[1], kernel, kernel)
    if net.binary:
        scale = weight.abs().sum((1, 2, 3), keepdim=True) / weight[0].numel()
        weight = scale * weight.sign()
    return F.conv2d(x, weight, stride=stride, padding=kernel // 2)


def _signs(x, state, move, net):
    return (x + state[f'{move}.bias']).sign() if net.shifts else x.sign()


def _block(x, state, p, stride, double, net):
    width = x.shape[1]
    y = _convolve(
        _signs(x, state, f'{p}move11', net), state, f'{p}binary_3x3', net, width, 3, stride
    )
    y = batch_norm(y, state, f'{p}bn1') + (halve(x) if stride == 2 else x)
    if net.shifts:
        y = _rprelu(y, state, f'{p}move12', f'{p}prelu1', f'{p}move13')
    signs = _signs(y, state, f'{p}move21', net)
    convs = {'binary_pw': 'bn2'}
    if double:
        convs = {'binary_pw_down1': 'bn2_1', 'binary_pw_down2': 'bn2_2'}
    z = []
    for conv, norm in convs.items():
        branch = _convolve(signs, state, p + conv, net, width, 1)
        z.append(batch_norm(branch, state, p + norm) + y)
    z = torch.cat(z, 1)
    if net.shifts:
        z = _rprelu(z, state, f'{p}move22', f'{p}prelu2', f'{p}move23')
    return z


def _block_18(x, state, p, out, stride, net):
    signs = _signs(x, state, f'{p}move0', net)
    y = _convolve(signs, state, f'{p}binary_conv', net, out, 3, stride)
    y = batch_norm(y, state, f'{p}bn1')
    if stride == 2 or x.shape[1] != out:
        x = halve(x) if stride == 2 else x
        x = F.conv2d(x, state[f'{p}downsample.1.weight'])
        x = batch_norm(x, state, f'{p}downsample.2')
    y = y + x
    if net.shifts:
        y = _rprelu(y, state, f'{p}move1', f'{p}prelu', f'{p}move2')
    return y


def logits(state, net, x):
    """Return the published network's logits.

    Args:
        state: A file's state dict, without ``module.``, float64.
        net: The network it was saved from.
        x: Images ``(N, 3, H, W)``, float64.
    """
    if net.depths:
        x = F.conv2d(x, state['conv1.weight'], stride=2, padding=3)
        x = F.max_pool2d(batch_norm(x, state, 'bn1'), 3, 2, 1)
        for prefix, _, out, stride in blocks_18(net):
            x = _block_18(x, state, prefix, out, stride, net)
    else:
        x = F.conv2d(x, state['feature.0.conv1.weight'], stride=2, padding=1)
        x = batch_norm(x, state, 'feature.0.bn1')
        for prefix, _, stride, double in blocks(net):
            x = _block(x, state, prefix, stride, double, net)
    return x.mean((2, 3)) @ state['fc.weight'].t() + state['fc.bias']
