"""An independent implementation of the published BinaryViT networks.

Random files in the published format, and the logits that the published code computes
from such a file in evaluation, written as plain functions of tensors from the formulas.
It shares no code with mmesbnn. It was compared with the published code itself
(``ca16a43``): logits of all kinds of networks agree to 1e-10.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tests.reference.common import batch_norm, norm_shapes, uniform_numbers

#: Shape of what broadcasts over tokens.
TOKENS = (-1,)


@dataclass(frozen=True)
class Network:
    """Arguments of the published constructor, sizes in pixels.

    A published pyramid has four stages and images of 224 pixels; the plain network
    (``extra-res``) has one, patches of 16 pixels and no norm in its embedding.
    """

    dims: tuple = (64, 128)
    depths: tuple = (1, 2)
    heads: tuple = (1, 2)
    ffn_dims: tuple = (128, 512)
    sr_ratios: tuple = (2, 1)
    patch: int = 4
    image: int = 32
    some_fp: bool = False
    layer_scale: bool = True
    pools: tuple = (3, 5)
    num_classes: int = 10

    @property
    def pyramid(self):
        return len(self.dims) > 1

    def tokens(self, stage):
        return (self.image // self.patch // 2**stage) ** 2

    def layers(self):
        """Yield the prefix and the stage of every layer."""
        stages = [s for s, depth in enumerate(self.depths) for _ in range(depth)]
        for i, stage in enumerate(stages):
            yield f'vit.encoder.layer.{i}.', stage


# ------------------------------------------------------------------ random files


def _rprelu(prefix, width):
    names = ('move1', 'prelu.weight', 'move2')
    return {f'{prefix}.{name}': (width,) for name in names}


def _scale(prefix, width):
    return {f'{prefix}.alpha': (width,), f'{prefix}.move': (width,)}


def _attention_shapes(prefix, width, reduced):
    shapes = {f'{prefix}att_prob_clip': ()}
    letters = {'q': 'query', 'k': 'key', 'v': 'value'}
    for letter, name in {**letters, **({'r': 'reduction'} if reduced else {})}.items():
        shapes[f'{prefix}move{letter}'] = (width,)
        if letter != 'r':
            shapes[f'{prefix}move{letter}2'] = (width,)
        shapes[f'{prefix}{name}.weight'] = (width, width)
        norm = 'norm_r' if letter == 'r' else f'norm{letter}'
        shapes.update(norm_shapes(f'{prefix}{norm}', width))
        shapes.update(_rprelu(f'{prefix}rprelu{letter}', width))
    shapes.update(norm_shapes(f'{prefix}norm_context', width))
    return {**shapes, **_rprelu(f'{prefix}rprelu_context', width)}


def _dense_shapes(prefix, width, out, scaled):
    return {
        f'{prefix}dense.weight': (out, width),
        f'{prefix}move': (width,),
        **norm_shapes(f'{prefix}norm', out),
        **_rprelu(f'{prefix}rprelu', out),
        **(_scale(f'{prefix}layerscale', out) if scaled else {}),
    }


def _merging_shapes(prefix, width, out, tokens, some_fp):
    binary = {f'{prefix}move': (1, width, 1, 1), **_rprelu(f'{prefix}rprelu', out)}
    return {
        **norm_shapes(f'{prefix}norm0', width),
        f'{prefix}proj.weight': (out, width, 2, 2),
        **norm_shapes(f'{prefix}norm', out),
        f'{prefix}position_embeddings': (1, tokens, out),
        **({} if some_fp else binary),
    }


def shapes(net):
    """Return names and shapes of a published file."""
    first = net.dims[0]
    embeddings = 'vit.embeddings.'
    result = {
        f'{embeddings}position_embeddings': (1, net.tokens(0), first),
        f'{embeddings}patch_embeddings.projection.weight': (first, 3, *[net.patch] * 2),
        f'{embeddings}patch_embeddings.projection.bias': (first,),
        **(norm_shapes(f'{embeddings}norm', first) if net.pyramid else {}),
    }
    for prefix, s in net.layers():
        width, hidden, scaled = net.dims[s], net.ffn_dims[s], net.layer_scale
        inner, outer = f'{prefix}attention.attention.', f'{prefix}attention.output.'
        result.update(_attention_shapes(inner, width, net.sr_ratios[s] > 1))
        result.update(_dense_shapes(outer, width, width, scaled))
        result.update(_dense_shapes(f'{prefix}intermediate.', width, hidden, False))
        result.update(_dense_shapes(f'{prefix}output.', hidden, width, scaled))
        result.update(norm_shapes(f'{prefix}layernorm_before', width))
        result.update(norm_shapes(f'{prefix}layernorm_after', width))
        for k in net.pools:
            result.update(_scale(f'{prefix}layerscale_h{k}', width))
            result.update(_scale(f'{prefix}layerscale_w{k}', width))
    for s in range(1, len(net.dims)):
        merging = (*net.dims[s - 1 : s + 1], net.tokens(s), net.some_fp)
        result.update(_merging_shapes(f'vit.encoder.patch_embed{s}.', *merging))
    last = net.dims[-1]
    result.update(norm_shapes('vit.layernorm', last))
    result['classifier.weight'] = (net.num_classes, last)
    result['classifier.bias'] = (net.num_classes,)
    return result


#: What follows the first two channels' embedding, up to the first layer's signs.
DEAD = (
    'vit.embeddings.norm.bias',
    'vit.embeddings.norm.running_mean',
    'vit.embeddings.position_embeddings',
    *(f'vit.encoder.layer.0.attention.attention.move{letter}' for letter in 'qkvr'),
)


def random_state(net, seed=0):
    """Return a random file of ``net``, float64, that uses every term of the forward.

    Rows of weights have a mean, and entries that are exactly 0 before or after it is
    subtracted; two channels of the first layer's input are exactly 0.
    """
    uniform = uniform_numbers(torch.Generator().manual_seed(seed))
    state = {}
    for name, shape in shapes(net).items():
        kind = name.rsplit('.', 1)[1]
        if kind == 'num_batches_tracked':
            value = torch.tensor(7)
        elif kind == 'running_var':
            value = uniform(shape, 0.5, 2)
        elif kind == 'att_prob_clip':
            # uniform probabilities lie around the threshold of half of it
            value = uniform(shape, 0.5, 1.5) / 8
        elif len(shape) > 1 and kind == 'weight':
            value = (uniform(shape, -1, 1.5) * 4).round() / 4
        else:  # affines, moves, slopes, biases, positions, running means
            value = uniform(shape, -0.7, 0.9)
        state[name] = value
    before = 'vit.encoder.layer.0.layernorm_before'
    for name in (*DEAD, f'{before}.bias', f'{before}.running_mean'):
        if name in state:
            state[name][..., :2] = 0
    embedding = 'vit.embeddings.patch_embeddings.projection'
    state[f'{embedding}.weight'][:2] = state[f'{embedding}.bias'][:2] = 0
    return state


# ------------------------------------------------------------------ logits


def _apply_rprelu(x, state, prefix):
    x = x - state[f'{prefix}.move1']
    x = x.clamp(min=0) + state[f'{prefix}.prelu.weight'] * x.clamp(max=0)
    return x + state[f'{prefix}.move2']


def _apply_scale(x, state, prefix):
    if f'{prefix}.alpha' not in state:
        return x
    return x * state[f'{prefix}.alpha'] + state[f'{prefix}.move']


def _linear(x, weight):
    """Compute a binary linear layer of tokens whose threshold is applied."""
    scale = weight.abs().mean(1, keepdim=True)
    centred = weight - weight.mean(1, keepdim=True)
    return x.sign() @ (scale * centred.sign()).t()


def _image(x):
    """Return the map of tokens on a square."""
    side = round(x.shape[1] ** 0.5)
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], side, side)


def _sequence(x):
    return x.reshape(*x.shape[:2], -1).transpose(1, 2)


def _projected(x, state, prefix, letter, name):
    norm = f'{prefix}norm_r' if letter == 'r' else f'{prefix}norm{letter}'
    y = _linear(x + state[f'{prefix}move{letter}'], state[f'{prefix}{name}.weight'])
    return _apply_rprelu(batch_norm(y, state, norm, TOKENS) + x, state, f'{prefix}rprelu{letter}')


def _attention(x, state, prefix, heads, ratio):
    queries = _projected(x, state, prefix, 'q', 'query')
    if ratio > 1:
        x = _sequence(F.avg_pool2d(_image(x), ratio))
        x = _projected(x, state, prefix, 'r', 'reduction')
    keys = _projected(x, state, prefix, 'k', 'key')
    values = _projected(x, state, prefix, 'v', 'value')

    clip, size = state[f'{prefix}att_prob_clip'], x.shape[2] // heads
    parts = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        q, k, v = (
            (part[..., own] + state[f'{prefix}move{letter}2'][own]).sign()
            for part, letter in ((queries, 'q'), (keys, 'k'), (values, 'v'))
        )
        probabilities = (torch.einsum('nlc,nmc->nlm', q, k) / size**0.5).softmax(2)
        attended = (probabilities / clip).round().clamp(0, 1) * clip
        parts.append(torch.einsum('nlm,nmc->nlc', attended, v))
    context = torch.cat(parts, 2)

    if ratio > 1:
        keys, values = (
            _sequence(_image(y).repeat_interleave(ratio, 2).repeat_interleave(ratio, 3))
            for y in (keys, values)
        )
    context = batch_norm(context, state, f'{prefix}norm_context', TOKENS)
    return _apply_rprelu(context + queries + keys + values, state, f'{prefix}rprelu_context')


def _dense(x, residual, state, prefix):
    y = _linear(x + state[f'{prefix}move'], state[f'{prefix}dense.weight'])
    y = batch_norm(y, state, f'{prefix}norm', TOKENS) + residual
    y = _apply_rprelu(y, state, f'{prefix}rprelu')
    return _apply_scale(y, state, f'{prefix}layerscale')


def _layer(x, state, prefix, net, stage):
    normed = batch_norm(x, state, f'{prefix}layernorm_before', TOKENS)
    inner = f'{prefix}attention.attention.'
    context = _attention(normed, state, inner, net.heads[stage], net.sr_ratios[stage])
    x = x + _dense(context, context, state, f'{prefix}attention.output.')

    normed = batch_norm(x, state, f'{prefix}layernorm_after', TOKENS)
    ratio = net.ffn_dims[stage] // net.dims[stage]
    hidden = _dense(normed, torch.cat([normed] * ratio, 2), state, f'{prefix}intermediate.')
    averaged = hidden.reshape(*hidden.shape[:2], -1, ratio).mean(3)
    x = x + _dense(hidden, averaged, state, f'{prefix}output.')
    for k in net.pools:
        for letter, kernel in (('h', (k, 1)), ('w', (1, k))):
            padding = tuple(n // 2 for n in kernel)
            pooled = _sequence(F.avg_pool2d(_image(normed), kernel, 1, padding))
            x = x + _apply_scale(pooled, state, f'{prefix}layerscale_{letter}{k}')
    return x


def _merge(x, state, prefix, some_fp):
    x = batch_norm(x, state, f'{prefix}norm0', TOKENS)
    weight, image = state[f'{prefix}proj.weight'], _image(x)
    if some_fp:
        y = _sequence(F.conv2d(image, weight, stride=2))
        y = batch_norm(y, state, f'{prefix}norm', TOKENS)
    else:
        scale = weight.abs().mean((1, 2, 3), keepdim=True)
        signs = (image + state[f'{prefix}move']).sign()
        y = _sequence(F.conv2d(signs, scale * weight.sign(), stride=2))
        residual = torch.cat([_sequence(F.avg_pool2d(image, 2))] * (y.shape[2] // x.shape[2]), 2)
        y = batch_norm(y, state, f'{prefix}norm', TOKENS) + residual
        y = _apply_rprelu(y, state, f'{prefix}rprelu')
    return y + state[f'{prefix}position_embeddings']


def logits(state, net, x):
    """Return the published network's logits.

    Args:
        state: A file's state dict, without ``module.``, float64.
        net: The network it was saved from.
        x: Images ``(N, 3, H, W)``, float64.
    """
    patch = 'vit.embeddings.patch_embeddings.projection'
    x = F.conv2d(x, state[f'{patch}.weight'], state[f'{patch}.bias'], net.patch)
    x = _sequence(x)
    if net.pyramid:
        x = batch_norm(x, state, 'vit.embeddings.norm', TOKENS)
    x = x + state['vit.embeddings.position_embeddings']
    previous = 0
    for prefix, stage in net.layers():
        if stage > previous:
            x = _merge(x, state, f'vit.encoder.patch_embed{stage}.', net.some_fp)
            previous = stage
        x = _layer(x, state, prefix, net, stage)
    x = batch_norm(x, state, 'vit.layernorm', TOKENS).mean(1)
    return x @ state['classifier.weight'].t() + state['classifier.bias']
