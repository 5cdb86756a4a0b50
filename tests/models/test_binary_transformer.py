"""Transformers of mmpretrain with binary attention and feed-forwards."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS as ROOT

pytest.importorskip('mmpretrain')
from mmpretrain.registry import MODELS

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import (
    BinaryFeedForward,
    BinaryMultiheadAttention,
    BinaryOptions,
    ResidualBinaryLinear,
    ScaledSignWeight,
    TemperatureWeight,
    TiledBatchNorm2d,
)
from mmesbnn.binary.shrunk import shrunk_weight
from mmesbnn.models.backbones.binary_transformer import binary_transformer
from mmesbnn.models.backbones.hosted_layers import (
    HostedAttention,
    HostedFeedForward,
    HostedWindowAttention,
)

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
VIT = dict(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=8)
HOSTS = {
    'VisionTransformer': VIT,
    'DistilledVisionTransformer': dict(VIT, type='DistilledVisionTransformer'),
    'DeiT3': dict(VIT, type='DeiT3'),
    'T2T_ViT': dict(
        type='T2T_ViT',
        img_size=32,
        embed_dims=16,
        num_layers=2,
        t2t_cfg=dict(token_dims=8, use_performer=False),
        layer_cfgs=dict(num_heads=2, feedforward_channels=32),
    ),
    # maps of 8x8, 4x4 pixels with windows of 4x4, shifted in the first stage only
    'SwinTransformer': dict(
        type='SwinTransformer',
        img_size=32,
        window_size=4,
        out_indices=(1,),
        arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]),
    ),
}
HEADS = {
    'VisionTransformer': dict(type='VisionTransformerClsHead'),
    'DistilledVisionTransformer': dict(type='DeiTClsHead'),
    'DeiT3': dict(type='VisionTransformerClsHead'),
    'T2T_ViT': dict(type='VisionTransformerClsHead'),
    'SwinTransformer': dict(type='LinearClsHead'),
}


def binary(host=VIT, **options):
    """Return binary options for probabilities of 17 tokens."""
    return MODELS.build(dict(type='BinaryTransformer', backbone=host, clip=0.1, **options))


def randomised(model):
    """Return a float64 model in eval mode; all parameters and statistics are random."""
    model = model.double()
    model.eval()  # eval() returns None in mmpretrain's backbones
    for name, tensor in model.state_dict().items():
        if name.endswith('running_var'):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and tensor.dim():
            tensor.uniform_(-1, 1.5)
    return model


def images(count=2, size=32):
    return torch.randn(count, 3, size, size)


def test_it_is_registered_for_all():
    assert ROOT.get('BinaryTransformer') is binary_transformer
    assert MODELS.get('binary_transformer') is binary_transformer


# formula --------------------------------------------------------------------------


def sign(x):
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


class Restatement:
    """A Vision Transformer with binary layers, computed from a state dict only."""

    def __init__(self, state, tau):
        self.state, self.tau = state, tau

    def layer_norm(self, x, name):
        scale, shift = self.state[f'{name}.weight'], self.state[f'{name}.bias']
        return F.layer_norm(x, x.shape[-1:], scale, shift, 1e-6)

    def batch_norm(self, x, name):
        mean, var, scale, shift = (
            self.state[f'{name}.{key}'] for key in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def rprelu(self, x, name):
        x = x + self.state[f'{name}.shift_in.bias']
        x = torch.where(x > 0, x, self.state[f'{name}.slope'] * x)
        return x + self.state[f'{name}.shift_out.bias']

    def unit(self, x, residual, name, copies):
        weight = self.state[f'{name}.linear.weight']
        x = torch.cat([x] * (weight.shape[1] // x.shape[-1]), -1)
        signs = sign(x + self.state[f'{name}.shift.bias'])
        scale = weight.abs().mean(1)
        y = signs @ sign(weight - weight.mean(1, keepdim=True)).t() * scale
        y = self.batch_norm(torch.cat([y] * copies, -1), f'{name}.norm')
        return self.rprelu(y + residual, f'{name}.act')

    def attention(self, x, name):
        q, k, v = (self.unit(x, x, f'{name}.{n}', 1) for n in ('query', 'key', 'value'))
        heads = []
        for head in torch.arange(16).chunk(2):
            query, key, value = (
                sign(part + self.state[f'{name}.{n}_sign.shift.bias'])[..., head]
                for n, part in (('query', q), ('key', k), ('value', v))
            )
            p = (query @ key.mT / math.sqrt(8)).softmax(-1)
            clip = self.state[f'{name}.clip']
            heads.append(torch.where(p > clip / 2, clip, 0.0) @ value)
        context = self.batch_norm(torch.cat(heads, -1), f'{name}.norm') + q + k + v
        context = self.rprelu(context, f'{name}.act')
        return self.unit(context, context, f'{name}.output', 1)

    def feed_forward(self, x, name):
        ratio = 2 * self.tau
        wide = torch.cat([x] * ratio, -1)
        hidden = self.unit(x, wide, f'{name}.up', self.tau**2)
        pooled = hidden.reshape(*x.shape, ratio).mean(-1)
        return self.unit(hidden, pooled, f'{name}.down', self.tau)

    def __call__(self, x):
        x = (
            F.conv2d(
                x,
                self.state['patch_embed.projection.weight'],
                self.state['patch_embed.projection.bias'],
                stride=8,
            )
            .flatten(2)
            .mT
        )
        token = self.state['cls_token'].expand(len(x), -1, -1)
        x = torch.cat([token, x], 1) + self.state['pos_embed']
        for name in ('layers.0', 'layers.1'):
            scale = self.state[f'{name}.attn.gamma1.weight']
            normed = self.layer_norm(x, f'{name}.ln1')
            x = x + scale * self.attention(normed, f'{name}.attn.attention')
            scale = self.state[f'{name}.ffn.gamma2.weight']
            normed = self.layer_norm(x, f'{name}.ln2')
            x = x + scale * self.feed_forward(normed, f'{name}.ffn.ffn')
        return self.layer_norm(x, 'ln1')[:, 0]


@pytest.mark.parametrize('tau', [1, 2])
def test_output_is_that_of_a_plain_restatement(tau):
    host = dict(VIT, layer_scale_init_value=0.1)
    model = randomised(binary(host, tau=tau))
    x = images().double()
    with torch.no_grad():
        (ours,), theirs = model(x), Restatement(model.state_dict(), tau)(x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert (theirs[0] - theirs[1]).abs().min() > 0


# windows --------------------------------------------------------------------------


def window_attention(state, x, mask):
    """Compute attention of one window ``(L, 8)`` with two heads and mask ``(L, L)``."""
    by_name = Restatement(state, 1)
    x = x.unsqueeze(0)
    q, k, v = (by_name.unit(x, x, f'attention.{n}', 1) for n in ('query', 'key', 'value'))
    bias = state['relative_position_bias_table'][state['relative_position_index']]
    heads = []
    for i, head in enumerate(torch.arange(8).chunk(2)):
        query, key, value = (
            sign(part + state[f'attention.{n}_sign.shift.bias'])[..., head]
            for n, part in (('query', q), ('key', k), ('value', v))
        )
        p = (query @ key.mT / 2 + bias[..., i] + mask).softmax(-1)
        clip = state['attention.clip']
        heads.append(torch.where(p > clip / 2, clip, 0.0) @ value)
    context = by_name.batch_norm(torch.cat(heads, -1), 'attention.norm') + q + k + v
    context = by_name.rprelu(context, 'attention.act')
    return by_name.unit(context, context, 'attention.output', 1)[0]


def test_attention_of_windows_is_that_of_a_plain_restatement():
    model = randomised(binary(HOSTS['SwinTransformer']))
    layer = model.stages[0].blocks[1].attn.w_msa
    assert type(layer) is HostedWindowAttention
    x = torch.randn(2 * 4, 16, 8, dtype=torch.double)  # two images of four windows
    mask = torch.where(torch.rand(4, 16, 16) < 0.3, -100.0, 0.0).double()
    with torch.no_grad():
        masked, open_ = layer(x, mask), layer(x)
    state = layer.state_dict()
    for i, window in enumerate(x):
        expected = window_attention(state, window, mask[i % 4])
        torch.testing.assert_close(masked[i], expected, rtol=0, atol=1e-9)
        expected = window_attention(state, window, 0)
        torch.testing.assert_close(open_[i], expected, rtol=0, atol=1e-9)
    assert (masked - open_).abs().max() > 0


# hosts ----------------------------------------------------------------------------


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('tau', [1, 2])
def test_a_classifier_of_an_ordinary_config_trains_a_step(host, tau):
    torch.manual_seed(0)
    keep = ['tokens_to_token'] if host == 'T2T_ViT' else []
    backbone = dict(type='BinaryTransformer', backbone=HOSTS[host], tau=tau, keep=keep, clip=0.1)
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling') if 'Swin' in host else None,
            head=dict(HEADS[host], num_classes=5, in_channels=16),
        )
    )
    model.init_weights()
    attention = HostedWindowAttention if 'Swin' in host else HostedAttention
    for kind in (attention, HostedFeedForward):
        found = [name for name, m in model.named_modules() if isinstance(m, kind)]
        assert len(found) == (4 if 'Swin' in host else 2)
        assert not any('tokens_to_token' in name for name in found)
    # heads start at zero, so no gradient passes through them
    for name, parameter in model.head.named_parameters():
        if name.endswith('weight'):
            torch.nn.init.normal_(parameter, std=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {k: v.clone() for k, v in model.named_parameters()}
    out = model(images(4), mode='tensor')
    (sum(out) if isinstance(out, tuple) else out).square().sum().backward()
    optimizer.step()
    parts = ('.attn.attention.', '.w_msa.', '.ffn.ffn.')
    inside = [k for k in before if any(part in k for part in parts)]
    assert inside
    still = [k for k, v in model.named_parameters() if torch.equal(v, before[k])]
    assert [k for k in still if k in inside] == []
    assert all(v.isfinite().all() for v in model.parameters())


def test_the_backbone_itself_is_returned_with_all_else_as_it_was():
    host = MODELS.build(dict(VIT, drop_path_rate=0.2, layer_scale_init_value=0.3))
    scales = [layer.attn.gamma1 for layer in host.layers]
    paths = [layer.ffn.dropout_layer for layer in host.layers]
    model = binary_transformer(host)
    assert model is host
    assert [layer.attn.gamma1 for layer in model.layers] == scales
    assert [layer.ffn.dropout_layer for layer in model.layers] == paths
    assert paths[1].drop_prob == 0.2
    # with every path dropped, a layer is the identity
    for layer in model.layers:
        layer.attn.out_drop.drop_prob = layer.ffn.dropout_layer.drop_prob = 1 - 1e-9
    x = torch.randn(2, 17, 16)
    assert torch.equal(model.layers[1].train()(x), x)
    assert not torch.equal(model.layers[1].eval()(x), x)


@pytest.mark.parametrize(
    ('options', 'attentions', 'feed_forwards'),
    [
        (dict(), 2, 2),
        (dict(attention=False), 0, 2),
        (dict(feedforward=False), 2, 0),
        (dict(keep='layers.0'), 1, 1),
        (dict(keep=['layers.1.attn', '*.ffn']), 1, 0),
    ],
)
def test_what_is_binary(options, attentions, feed_forwards):
    modules = list(binary(**options).modules())
    kinds = (BinaryMultiheadAttention, BinaryFeedForward)
    found = [sum(isinstance(m, kind) for m in modules) for kind in kinds]
    assert found == [attentions, feed_forwards]


def test_multiplications_are_those_of_the_float_network_at_every_tau():
    plain = count_ops(MODELS.build(VIT), (3, 32, 32)).total
    patches = 3 * 8 * 8 * 16 * 16
    for tau in (1, 2, 4):
        model = binary(tau=tau)
        model.eval()
        total = count_ops(model, (3, 32, 32)).total
        assert total['bops'] == plain['fp_macs'] - patches
        assert total['fp_macs'] == patches
        assert total['binary_params'] == 2 * (4 * 16 * 16 + 2 * 16 * 32)
        assert not check_binary(model, images())


@pytest.mark.parametrize('training', [True, False])
def test_it_compiles_as_one_graph(training):
    torch._dynamo.reset()
    model = binary(tau=2).double()
    model.train(training)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    x = images().double()
    torch.testing.assert_close(compiled(x), model(x))


def test_norms_follow_their_config():
    norm_cfg = dict(type='SyncBN', eps=0.01, requires_grad=False)
    model = binary(norm_cfg=norm_cfg)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 2 * (5 + 2)
    for norm in norms:
        assert norm.sync and norm.eps == 0.01 and not norm.weight.requires_grad
    assert all(layer.ln1.weight.requires_grad for layer in model.layers)


def test_frozen_layers_stay_frozen():
    model = binary(dict(VIT, frozen_stages=1))
    frozen = [p.requires_grad for p in model.layers[0].parameters()]
    assert not any(frozen)
    assert all(p.requires_grad for p in model.layers[1].parameters())


@pytest.mark.parametrize('attention', [True, False])
def test_swin_initialises_its_position_biases(attention):
    model = binary(HOSTS['SwinTransformer'], attention=attention)
    model.init_weights()
    tables = [p for n, p in model.named_parameters() if 'position_bias_table' in n]
    assert len(tables) == 4
    assert all(0.005 < table.std() < 0.05 for table in tables)


# float weights --------------------------------------------------------------------


def check_latents(model, state, tau):
    for i, layer in enumerate(model.layers):
        qkv = state[f'layers.{i}.attn.qkv.weight'].chunk(3)
        attention = layer.attn.attention
        units = (attention.query, attention.key, attention.value, attention.output)
        weights = (*qkv, state[f'layers.{i}.attn.proj.weight'])
        for unit, weight in zip(units, weights):
            assert torch.equal(unit.linear.weight, weight)
        for unit, key in ((layer.ffn.ffn.up, '0.0'), (layer.ffn.ffn.down, '1')):
            weight = state[f'layers.{i}.ffn.layers.{key}.weight']
            assert torch.equal(unit.linear.weight, shrunk_weight(weight, tau))


@pytest.mark.parametrize('tau', [1, 2])
def test_weights_of_the_host_become_latent_weights(tau):
    host = MODELS.build(VIT)
    state = {k: v.clone() for k, v in host.state_dict().items()}
    check_latents(binary_transformer(host, tau), state, tau)


def test_float_checkpoints_initialise_and_own_ones_load_strictly(tmp_path):
    state = MODELS.build(VIT).state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'float.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'float.pth'))
    model = binary(dict(VIT, init_cfg=init_cfg))
    model.init_weights()
    check_latents(model, state, 1)
    assert torch.equal(model.patch_embed.projection.weight, state['patch_embed.projection.weight'])
    other = binary()
    other.load_state_dict(model.state_dict(), strict=True)
    model.eval(), other.eval()
    x = images()
    assert torch.equal(other(x)[0], model(x)[0])


def test_the_config_in_the_readme_is_right():
    text = (CONFIGS / 'binary_vit' / 'README.md').read_text()
    (block,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    names = {}
    exec(block, names)
    with torch.device('meta'):
        model = MODELS.build(names['model']['backbone'])
    kinds = [type(layer.attn) for layer in model.layers]
    assert kinds[1:] == [HostedAttention] * 11
    assert kinds[0] is not HostedAttention
    assert [hook['type'] for hook in names['custom_hooks']] == ['ParameterBoundsHook']


# options --------------------------------------------------------------------------

OTHERS = dict(
    tau=2,
    es_groups=2,
    spread=0.25,
    sign=dict(type='hard_tanh', clip=1.5),
    weight_binarizer='scaled_sign',
    latent_clip=1.0,
)


@pytest.mark.parametrize(
    'given', [OTHERS, dict(options=OTHERS), dict(options=BinaryOptions(**OTHERS))]
)
def test_options_reach_every_binary_layer(given):
    model = binary(**given)
    units = [m for m in model.modules() if isinstance(m, ResidualBinaryLinear)]
    assert len(units) == 2 * (4 + 2)
    for unit in units:
        assert unit.linear.sign.clip == 1.5
        assert type(unit.linear.weight_binarizer) is ScaledSignWeight
        assert unit.linear.parameter_bounds == {'weight': (-1.0, 1.0)}
    for layer in model.layers:
        attention = layer.attn.attention
        assert {sign.sign.clip for sign in (attention.query_sign, attention.value_sign)} == {1.5}
        expansion = layer.ffn.ffn.up.linear.expansion
        assert (expansion.tau, expansion.groups) == (2, 2)
        assert layer.ffn.ffn.up.shift.bias.max() == 0.25
    model.train()
    assert model(images())[0].isfinite().all()


def test_the_value_of_sign_0_is_still_an_argument():
    linear = binary(sign_zero=0).layers[0].ffn.ffn.up.linear
    assert linear.sign.zero == linear.weight_binarizer.zero == 0
    linear = binary().layers[0].ffn.ffn.up.linear
    assert linear.sign.zero == linear.weight_binarizer.zero == -1


def test_a_binarizer_given_as_a_module_is_not_shared():
    model = binary(weight_binarizer=TemperatureWeight())
    found = {id(m) for m in model.modules() if isinstance(m, TemperatureWeight)}
    assert len(found) == 2 * (4 + 2)


# bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('host', 'options', 'message'),
    [
        ({}, dict(tau=3), 'tau=3 does not divide'),
        ({}, dict(tau=2, feedforward=False), 'tau=2 must be 1 with feedforward=False'),
        ({}, dict(es_groups=2, feedforward=False), 'es_groups=2 must be 1 with feedforward'),
        ({}, dict(pad_value=1), 'pad_value=1'),
        ({}, dict(sign=None), 'sign=None'),
        ({}, dict(options=dict(tau=2), spread=0.1), 'options and spread'),
        ({}, dict(tua=2), 'tua'),
        ({}, dict(attention=False, feedforward=False), 'can be replaced'),
        ({}, dict(keep='layer.*'), r"keep='layer.\*' matches no module"),
        ({}, dict(keep='layers'), 'keep names all of them'),
        (dict(type='PoolFormer', arch='s12'), {}, 'of PoolFormer can be replaced'),
        (dict(layer_cfgs=dict(attn_drop_rate=0.1)), {}, 'attn_drop=0.1.*must be 0'),
        (dict(drop_rate=0.1), {}, 'drop_rate=0.1'),
        ({}, dict(residual_pool='mean'), "residual_pool='mean'"),
        ({}, dict(norm_cfg=dict(type='LN')), "type='LN' must be 'BN' or 'SyncBN'"),
    ],
)
def test_bad_arguments_are_named(host, options, message):
    host = host if 'type' in host else dict(VIT, **host)
    with pytest.raises(ValueError, match=message):
        binary(host, **options)


def test_an_error_leaves_the_backbone_as_it_was():
    model = MODELS.build(VIT)
    before = list(map(id, model.modules()))
    with pytest.raises(ValueError, match='tau=3 does not divide'):
        binary_transformer(model, tau=3)
    assert list(map(id, model.modules())) == before


def gains_of_copies(model):
    return [
        m.weight.detach().view(m.copies, -1)
        for m in model.modules()
        if isinstance(m, TiledBatchNorm2d) and m.copies > 1
    ]


def test_copies_start_as_copy_init_says_and_initialisers_keep_their_signs():
    torch.manual_seed(0)
    alike = binary(tau=2)
    model = binary(tau=2, copy_init='balanced')
    assert model.state_dict().keys() == alike.state_dict().keys()
    assert all(gains.eq(1).all() for gains in gains_of_copies(alike))
    model.init_cfg = dict(type='Constant', layer='TiledBatchNorm2d', val=0.5)
    copied = copy.deepcopy(model)
    copied.init_weights()
    assert all(gains.eq(1).logical_or(gains.eq(-1)).all() for gains in gains_of_copies(model))
    for gains in gains_of_copies(copied):
        assert gains.abs().eq(0.5).all()
        assert ((gains < 0).sum(0) == len(gains) // 2).all()
