"""An independent implementation of the published BNext networks.

Random files in the published format, and the logits that the published code computes
from such a file in evaluation, written as plain functions of tensors from the formulas.
It shares no code with mmesbnn. It was compared with the published code itself (BNext
``dfcf347``, ESBNN ``972eecd``): for all kinds of networks and temperatures logits
agree to 1e-11.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tests.reference.common import batch_norm, halve, norm_shapes, uniform_numbers


@dataclass(frozen=True)
class Network:
    """Arguments of the published constructor.

    Args:
        channels: Stem's width, then that of every block, or of every stage in BNext-18.
        depths: Blocks per stage, BNext-18 only.
        tau: ES factor.
        kind: ``'bnext'``, ``'rep'`` or ``'rep_ops'``; the first two agree for tau=1.
        se_bits: Bits of squeeze-excite in a quantised network, None for a float one.
        num_classes: Classes; 1000 means ImageNet's stem.
    """

    channels: tuple
    depths: tuple | None = None
    tau: int = 1
    kind: str = 'bnext'
    se_bits: int | None = None
    num_classes: int = 10

    @property
    def ops(self):
        return self.kind == 'rep_ops'

    @property
    def head_width(self):
        return self.channels[-1] * (1 if self.ops else self.tau)

    @property
    def excite(self):
        return 'se.se.4' if self.ops else 'se.se.3'


def blocks(net):
    """Yield prefix, input width, stride, is-scale and FFN names of T/S/M/L's blocks."""
    for i in range(1, len(net.channels)):
        width, out = net.channels[i - 1], net.channels[i]
        ffns = ['FFN'] if width == out else ['FFN_1', 'FFN_2']
        stride = 2 if i > 1 and width != out else 1
        yield f'feature.{i}.', width, stride, i > 1 and i % 2 == 0, ffns


def blocks_18(net):
    """Yield prefix, input width, output width and stride of BNext-18's blocks."""
    for stage, depth in enumerate(net.depths):
        width, out = net.channels[stage : stage + 2]
        for block in range(depth):
            first = block == 0
            stride = 2 if first and stage > 0 else 1
            yield f'layer{stage}.{block}.', width if first else out, out, stride


# ------------------------------------------------------------------ random files


def _clips(prefix, net, act='activation_clip_val'):
    if net.se_bits is None:
        return {}
    return {f'{prefix}.weight_clip_val': (2,), f'{prefix}.{act}': (2,)}


def _unit(prefix, width, out, kernel, net):
    tau, middle = net.tau, out // 8
    squeezed, excited = (middle // tau, out // tau) if net.ops else (middle, out * tau)
    excite_in = middle * tau if net.ops else middle
    return {
        f'{prefix}.scale': (1, out * tau, 1, 1),
        f'{prefix}.move.bias': (1, width * tau, 1, 1),
        f'{prefix}.binary_activation.temperature': (1,),
        f'{prefix}.binary_conv.weight': (out // tau, width * tau, kernel, kernel),
        f'{prefix}.binary_conv.temperature': (1,),
        **norm_shapes(f'{prefix}.norm1', out * tau),
        **norm_shapes(f'{prefix}.norm2', out * tau),
        f'{prefix}.activation1.weight': (width * tau,),
        f'{prefix}.activation2.weight': (out * tau,),
        f'{prefix}.se.se.1.weight': (squeezed, out * tau, 1, 1),
        f'{prefix}.se.se.1.bias': (squeezed,),
        **_clips(f'{prefix}.se.se.1', net),
        f'{prefix}.{net.excite}.weight': (excited, excite_in, 1, 1),
        f'{prefix}.{net.excite}.bias': (excited,),
        **_clips(f'{prefix}.{net.excite}', net),
    }


def _body_shapes(net):
    stem = net.channels[0]
    shapes = {
        'feature.0.conv1.weight': (stem, 3, 3, 3),
        **_clips('feature.0.conv1', net),
        **norm_shapes('feature.0.bn1', stem * net.tau),
        'feature.0.prelu.weight': (stem * net.tau,),
    }
    for prefix, width, _, _, ffns in blocks(net):
        shapes.update(_unit(f'{prefix}Attention', width, width, 3, net))
        for ffn in ffns:
            shapes.update(_unit(f'{prefix}{ffn}', width, width, 1, net))
    return shapes


def _body_shapes_18(net):
    stem, kernel = net.channels[0], 7 if net.num_classes == 1000 else 3
    shapes = {'conv1.weight': (stem, 3, kernel, kernel), **norm_shapes('bn1', stem)}
    for prefix, width, out, stride in blocks_18(net):
        shapes.update(_unit(f'{prefix}Attention', width, out, 3, net))
        if stride == 2:
            shapes[f'{prefix}Attention.downsample.1.weight'] = (out, width, 1, 1)
            shapes.update(norm_shapes(f'{prefix}Attention.downsample.2', out))
        shapes.update(_unit(f'{prefix}FFN', out, out, 3, net))
    return shapes


def shapes(net):
    """Return names and shapes of a published file."""
    body = _body_shapes_18(net) if net.depths else _body_shapes(net)
    quantized = {} if net.se_bits is None else {'fc.scale': ()}
    return {
        **body,
        'prelu.weight': (net.head_width,),
        'fc.weight': (net.num_classes, net.head_width),
        'fc.bias': (net.num_classes,),
        **quantized,
        **_clips('fc', net, 'act_clip_val'),
    }


def _binary_weight(shape, rng):
    """Return magnitudes from 1e-9 to 3, so that every temperature saturates only some."""
    magnitude = 10 ** (torch.rand(shape, generator=rng, dtype=torch.double) * 9.5 - 9)
    sign = torch.randint(-1, 2, shape, generator=rng)  # a third are exact zeros
    return magnitude * sign


def random_state(net, temperature, seed=0):
    """Return a random file of ``net``, float64, that uses every term of the forward.

    Running statistics differ among copies; mixing scales leave [0, 1]; some weights
    and, through dead stem channels, some activations are exactly 0.

    Args:
        net: The network.
        temperature: Of all weights; a list gives different layers different ones.
        seed: Of the random numbers.
    """
    rng = torch.Generator().manual_seed(seed)
    uniform = uniform_numbers(rng)
    temperatures = temperature if isinstance(temperature, list) else [temperature]
    state, layer = {}, 0
    wanted = shapes(net)
    for name, shape in wanted.items():
        kind = name.rsplit('.', 1)[1]
        if name.endswith('binary_activation.temperature'):
            value = torch.full(shape, 0.7, dtype=torch.double)
        elif kind == 'temperature':
            value = temperatures[layer % len(temperatures)]
            value, layer = torch.full(shape, value, dtype=torch.double), layer + 1
        elif name.endswith('binary_conv.weight'):
            value = _binary_weight(shape, rng)
        elif kind == 'num_batches_tracked':
            value = torch.tensor(7)
        elif kind == 'running_var':
            value = uniform(shape, 0.5, 2)
            if '.norm1.' in name:  # of the order of the binary convolution's output
                conv = wanted[name.replace('norm1.running_var', 'binary_conv.weight')]
                value *= conv[1] * conv[2] * conv[3]
        elif name == 'fc.scale':
            value = torch.zeros((), dtype=torch.double)
        elif kind.endswith('clip_val'):
            limit = 25 if name.startswith('fc.') else 1000.0
            value = torch.tensor([-limit, limit])
        elif kind == 'scale':
            value = uniform(shape, -0.5, 1.5)
        elif len(shape) in (2, 4) and kind == 'weight':
            bound = (3 / torch.Size(shape[1:]).numel()) ** 0.5
            value = uniform(shape, -bound, bound)
        else:  # affines, shifts, slopes, biases, running means
            value = uniform(shape, -0.7, 0.9)
        state[name] = value
    stem = 'bn1' if net.depths else 'feature.0.bn1'
    first = 'layer0.0' if net.depths else 'feature.1'
    for name in (f'{stem}.weight', f'{stem}.bias', f'{stem}.running_mean'):
        state[name][:2] = 0
    state[f'{first}.Attention.move.bias'][:, :2] = 0
    return state


# ------------------------------------------------------------------ logits


def _prelu(x, state, name):
    return x.clamp(min=0) + state[name].reshape(1, -1, 1, 1) * x.clamp(max=0)


def _copies(x, count):
    return torch.cat([x] * count, 1)


def _levels(x, bits, clip):
    """Round rows (last axis) to ``2^bits`` levels between their extremes."""
    x = x.clamp(-clip, clip)
    low = x.min(-1, keepdim=True).values
    span = x.max(-1, keepdim=True).values - low + 1e-8
    top = 2**bits - 1
    return ((x - low) / span * top).round() / top * span + low


def _quantized_kernel(weight, bits, clip):
    unit = 2 * weight.flatten(1).abs().mean(1).reshape(-1, *[1] * (weight.dim() - 1))
    # 1x1 kernels share a range per output, larger ones have one per kernel slice
    by = 2 if weight.dim() == 4 and weight.shape[-1] > 1 else 1
    rounded = _levels((weight / unit).flatten(by), bits, clip)
    return rounded.reshape(weight.shape) * unit


def _gate_kernel(x, state, prefix, bits):
    """Apply a 1x1 convolution of squeeze-excite to vectors ``(N, C)``."""
    weight, bias = state[f'{prefix}.weight'], state[f'{prefix}.bias']
    if bits is not None:
        # the published layer takes three input channels for an image, which stays
        if bits != 32 and weight.shape[1] != 3:
            x = _levels(x, bits, 1000)
        weight = _quantized_kernel(weight, bits, 1000)
    return x @ weight.flatten(1).t() + bias


def _gate(x, state, prefix, net):
    copies = net.tau**2 if net.ops else 1
    x = x.mean((2, 3))
    x = _gate_kernel(x, state, f'{prefix}.se.se.1', net.se_bits)
    x = _copies(x, copies).clamp(min=0)
    x = _copies(_gate_kernel(x, state, f'{prefix}.{net.excite}', net.se_bits), copies)
    return 1 / (1 + (-x).exp())[:, :, None, None]


def _effective_weight(state, prefix, net):
    weight, temperature = state[f'{prefix}.weight'], state[f'{prefix}.temperature']
    if net.depths:
        weight = weight.clamp(-1.5, 1.5)
    if temperature.item() < (1e-5 if net.depths else 1e-7):
        return weight.sign()
    return (weight / max(temperature.item(), 1e-8)).clamp(-1, 1)


def _trunk(x, state, prefix, net, stride):
    weight = _effective_weight(state, f'{prefix}.binary_conv', net)
    signs = (x + state[f'{prefix}.move.bias']).sign()
    y = F.conv2d(signs, weight, stride=stride, padding=weight.shape[-1] // 2)
    y = batch_norm(_copies(y, net.tau**2), state, f'{prefix}.norm1')
    return _prelu(y, state, f'{prefix}.activation2.weight')


def _recouple(y, source, state, prefix, net, clamped):
    """Return the trunk's output times the gate of its mixture with ``source``."""
    scale = state[f'{prefix}.scale']
    if clamped and net.se_bits is None:
        scale = scale.clamp(0, 1)
    return _gate(scale * source + (1 - scale) * y, state, prefix, net) * y


def _scale_module(x, state, prefix, net, stride):
    pool = halve if stride == 2 else torch.clone
    residual = pool(_prelu(x, state, f'{prefix}.activation1.weight'))
    y = _trunk(x, state, prefix, net, stride)
    y = _recouple(y, pool(x), state, prefix, net, clamped=False)
    return residual + batch_norm(y * residual, state, f'{prefix}.norm2')


def _bias_module(x, state, prefix, net, stride=1, clamped=False):
    residual = halve(x) if stride == 2 else x
    y = _trunk(x, state, prefix, net, stride)
    y = _recouple(y, residual, state, prefix, net, clamped)
    return residual + batch_norm(y, state, f'{prefix}.norm2')


def _scale_module_18(x, state, prefix, net, stride):
    residual = _prelu(x, state, f'{prefix}.activation1.weight')
    if stride == 2:
        residual = halve(residual)
        residual = F.conv2d(residual, state[f'{prefix}.downsample.1.weight'])
        residual = batch_norm(residual, state, f'{prefix}.downsample.2')
    y = _trunk(x, state, prefix, net, stride)
    y = _recouple(y, residual, state, prefix, net, clamped=False)
    return residual + batch_norm(y * residual, state, f'{prefix}.norm2')


def _body(x, state, net):
    weight = state['feature.0.conv1.weight']
    if net.se_bits is not None:
        weight = _quantized_kernel(weight, 8, 1000)
    x = F.conv2d(x, weight, stride=2 if net.num_classes == 1000 else 1, padding=1)
    x = batch_norm(_copies(x, net.tau), state, 'feature.0.bn1')
    for prefix, _, stride, is_scale, ffns in blocks(net):
        module = _scale_module if is_scale else _bias_module
        x = module(x, state, f'{prefix}Attention', net, stride)
        outputs = [_bias_module(x, state, f'{prefix}{ffn}', net, clamped=True) for ffn in ffns]
        x = torch.cat(outputs, 1)
    return x


def _body_18(x, state, net):
    large = net.num_classes == 1000
    x = F.conv2d(x, state['conv1.weight'], stride=1 + large, padding=3 if large else 1)
    x = batch_norm(x, state, 'bn1')
    if large:
        x = F.max_pool2d(x, 3, 2, 1)
    for prefix, _, _, stride in blocks_18(net):
        x = _scale_module_18(x, state, f'{prefix}Attention', net, stride)
        x = _bias_module(x, state, f'{prefix}FFN', net, clamped=True)
    return x


def logits(state, net, x):
    """Return the published network's logits.

    Args:
        state: A file's state dict, without ``module.``, float64.
        net: The network it was saved from.
        x: Images ``(N, 3, H, W)``, float64.
    """
    x = (_body_18 if net.depths else _body)(x, state, net)
    x = _prelu(x[:, : net.head_width], state, 'prelu.weight').mean((2, 3))
    weight = state['fc.weight']
    if net.se_bits is not None:
        x, weight = _levels(x, 8, 25), _quantized_kernel(weight, 8, 25)
    return x @ weight.t() + state['fc.bias']
