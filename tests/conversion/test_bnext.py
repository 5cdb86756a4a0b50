"""Converted networks compute the published logits; wrong files are refused."""

import pytest

pytest.importorskip('mmpretrain')

import torch
from mmpretrain.registry import MODELS

import mmesbnn  # noqa: F401 (registers the backbone)
from mmesbnn.binary import TemperatureWeight
from mmesbnn.conversion import convert, load_published
from mmesbnn.models.backbones.bnext import ARCHS
from tests.reference.published_bnext import Network, logits, random_state, shapes

NARROW = (16, 32, 64, 64)
NARROW_18 = dict(channels=(8, 8, 16), depths=(1, 2))
NETWORKS = {
    'bnext': Network(NARROW),
    'equal widths first': Network((24, 24, 48, 48, 48), num_classes=7),
    'ImageNet': Network(NARROW, num_classes=1000),
    '18': Network(**NARROW_18),
    '18 ImageNet': Network(**NARROW_18, num_classes=1000),
    'rep': Network(NARROW, tau=2, kind='rep'),
    'rep_ops': Network(NARROW, tau=2, kind='rep_ops'),
    'rep_ops, tau 4': Network((32, 64), tau=4, kind='rep_ops', num_classes=1000),
    'rep_ops, tau 1': Network(NARROW, kind='rep_ops'),
    'quantised': Network(NARROW, se_bits=8),
    'quantised, gate of three channels': Network((24, 48, 48), se_bits=8),
    'quantised, real gate': Network(NARROW, se_bits=32),
    'quantised rep_ops': Network(NARROW, tau=2, kind='rep_ops', se_bits=8),
}
#: Around the thresholds of T/S/M/L (1e-7) and 18 (1e-5), and mixed among layers; from
#: 1.5 on, BNext-18's clamp of its latent weights shows.
TEMPERATURES = [2.0, 1.0, 0.3, 1e-3, 1.1e-5, 9e-6, 1.1e-7, 5e-8, 0.0, [1.0, 1e-3, 1e-9]]


def build(model_cfg, state_dict):
    model = MODELS.build(model_cfg).double().eval()
    model.load_state_dict(state_dict, strict=True)
    return model


def images():
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    x[:, :, :9] = 0
    return x


def options(net):
    return {} if net.se_bits is None else dict(se_bits=net.se_bits)


@pytest.mark.filterwarnings('ignore:.*weights')
@pytest.mark.parametrize('name', NETWORKS)
def test_logits_are_the_published_ones_at_every_temperature(name):
    net, x, model = NETWORKS[name], images(), None
    seen = []
    for seed, temperature in enumerate(TEMPERATURES):
        state = random_state(net, temperature, seed)
        cfg, converted = load_published(state, **options(net))
        model = model or MODELS.build(cfg).double().eval()
        model.load_state_dict(converted, strict=True)
        with torch.no_grad():
            ours, theirs = model(x, mode='tensor'), logits(state, net, x)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
        seen.append(theirs)
    assert torch.stack(seen).std(0).min() > 1e-3  # not all equal by accident


@pytest.mark.filterwarnings('ignore:.*weights')
def test_wrapped_training_checkpoint_converts_like_its_bare_state_dict():
    state = random_state(NETWORKS['rep_ops'], 1e-3)
    wrapped = {f'module.{key}': value for key, value in state.items()}
    checkpoint = dict(epoch=153, state_dict=wrapped, train_loss=[1.5], optimizer={})
    bare_cfg, bare = load_published(state)
    cfg, converted = load_published(checkpoint)
    assert cfg == bare_cfg
    assert converted.keys() == bare.keys()
    assert all(torch.equal(converted[key], bare[key]) for key in bare)


@pytest.mark.filterwarnings('ignore:.*weights')
def test_the_source_is_not_modified():
    state = random_state(NETWORKS['18'], 1.0)
    before = {key: value.clone() for key, value in state.items()}
    load_published(state, binarize=True)
    assert all(torch.equal(state[key], before[key]) for key in state)


def light_state(net):
    """Return all shapes of a large file, without memory for them."""
    state = {}
    for name, shape in shapes(net).items():
        value = 1e-9 if name.endswith('temperature') else 0.0
        state[name] = torch.full((), value).expand(shape)
        if name.endswith('clip_val'):
            limit = 25 if name.startswith('fc.') else 1000
            state[name] = torch.tensor([-limit, limit])
    return state


KINDS = ('bnext', 'rep', 'rep_ops', 'quantised')
#: BNext-18 was published in one kind only.
PUBLISHED = [('18', 'bnext'), *((a, k) for a in ARCHS if a != '18' for k in KINDS)]


@pytest.mark.parametrize('arch, kind', PUBLISHED)
def test_published_sizes_are_recognised_by_name(arch, kind):
    tau = 2 if kind.startswith('rep') else 1
    net = Network(
        tuple(ARCHS[arch]['channels']),
        ARCHS[arch].get('depths'),
        tau,
        'bnext' if kind == 'quantised' else kind,
        8 if kind == 'quantised' else None,
        num_classes=1000,
    )
    cfg = convert(light_state(net)).model_cfg
    quantised = dict(stem_bits=8, se_bits=8) if kind == 'quantised' else {}
    assert cfg == dict(
        type='ImageClassifier',
        backbone=dict(
            type='BNext',
            arch=arch,
            tau=tau,
            es_mode='full' if kind == 'rep' else 'shrunk',
            stem_stride=4 if arch == '18' else 2,
            sign_zero=0,
            **quantised,
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='MinMaxLinearClsHead' if quantised else 'LinearClsHead',
            num_classes=1000,
            in_channels=net.channels[-1] * (2 if kind == 'rep' else 1),
        ),
    )


def test_other_widths_and_small_images_are_read_from_the_shapes():
    cfg = convert(light_state(NETWORKS['bnext'])).model_cfg['backbone']
    assert cfg['arch'] == dict(channels=[16, 32, 64, 64])
    assert cfg['stem_stride'] == 1
    cfg = convert(light_state(NETWORKS['18'])).model_cfg['backbone']
    assert cfg['arch'] == dict(channels=[8, 8, 16], depths=[1, 2])
    assert cfg['stem_stride'] == 1


# ------------------------------------------------------------------ temperatures


@pytest.mark.parametrize('name, temperature', [('rep_ops', 5e-8), ('18', 9e-6)])
def test_a_file_of_signs_converts_without_a_warning(name, temperature, recwarn):
    load_published(random_state(NETWORKS[name], temperature))
    assert not recwarn.list


def test_never_binarized_weights_are_kept_real_with_one_warning():
    state = random_state(NETWORKS['rep_ops'], 1.0)
    with pytest.warns(UserWarning, match='never binarized') as caught:
        model = build(*load_published(state))
    assert len(caught) == 1
    layer = model.backbone.stages[0][0].spatial.conv
    real = state['feature.1.Attention.binary_conv.weight'].clamp(-1, 1)
    assert torch.equal(layer.effective_weight(), real)


@pytest.mark.parametrize('name, low', [('bnext', 1.1e-7), ('18', 1.1e-5)])
def test_half_hardened_weights_warn_too(name, low):
    with pytest.warns(UserWarning, match='not binary yet'):
        load_published(random_state(NETWORKS[name], [low, 1e-9]))


@pytest.mark.parametrize('name', ['bnext', '18', 'rep', 'rep_ops', 'quantised'])
def test_binarize_makes_every_weight_plus_or_minus_one(name):
    state = random_state(NETWORKS[name], 1.0)
    with pytest.warns(UserWarning, match='made signs'):
        cfg, converted = load_published(state, binarize=True)
    model = build(cfg, converted)
    layers = [
        module
        for module in model.modules()
        if isinstance(getattr(module, 'weight_binarizer', None), TemperatureWeight)
    ]
    assert len(layers) == sum(key.endswith('binary_conv.weight') for key in state)
    for layer in layers:
        positive = layer.weight > 0
        assert torch.equal(layer.effective_weight(), positive * 2.0 - 1)
    # no zero among the activations either
    signs = torch.cat([layer.sign(torch.zeros(1)) for layer in layers])
    assert signs.eq(-1).all()


def test_binarize_keeps_the_latent_weights():
    state = random_state(NETWORKS['rep'], 1.0)
    with pytest.warns(UserWarning, match='made signs'):
        _, converted = load_published(state, binarize=True)
    latent = converted['backbone.stages.0.0.spatial.conv.weight']
    assert torch.equal(latent, state['feature.1.Attention.binary_conv.weight'])


def test_binarize_of_a_file_of_signs_does_not_warn(recwarn):
    load_published(random_state(NETWORKS['bnext'], 5e-8), binarize=True)
    assert not recwarn.list


# ------------------------------------------------------------------ refused files


def broken(net='rep_ops', **changes):
    """Return a file with some entries replaced, or removed (None)."""
    state = light_state(NETWORKS[net])
    for name, value in changes.items():
        state.pop(name) if value is None else state.update({name: value})
    return state


@pytest.mark.parametrize(
    'state, message',
    [
        (
            broken(**{'feature.2.FFN_1.move.bias': None, 'fc.bias': None}),
            r'ES-BNext .*2 are missing \(feature.2.FFN_1.move.bias, fc.bias\)$',
        ),
        (broken(**{'fc.weight': None}), 'lacks the key fc.weight'),
        (broken(extra=torch.zeros(1)), r'1 are unknown \(extra\)'),
        (
            broken(**{'feature.0.bn1.weight': torch.zeros(24)}),
            'feature.0.bn1.weight has 24 entries .* 16 kernels: .* tau, must be',
        ),
        (
            broken(**{'feature.0.bn1.weight': torch.zeros(48)}),
            'tau=3 does not divide out_channels=16',
        ),
        (
            broken(**{'feature.1.Attention.move.bias': torch.zeros(1, 16, 1, 1)}),
            r'feature.1.Attention.move.bias: \(1, 16, 1, 1\) for \(1, 32, ',
        ),
        (broken(**{'fc.weight': torch.zeros(10)}), 'fc.weight has shape .* not 2 axes'),
        (
            broken('quantised', **{'fc.weight_clip_val': torch.tensor([-20, 20])}),
            r'fc.weight_clip_val is \[-20, 20\], .* range is \[-25, 25\]',
        ),
        (
            broken('quantised', **{'feature.1.FFN_1.se.se.1.weight_clip_val': None}),
            r'quantised BNext .*1 are missing \(feature.1.FFN_1.se.se.1.weight_clip_val',
        ),
        (broken('18', **{'bn1.weight': torch.zeros(16)}), 'no such network was publ'),
        (
            broken('18', **{'conv1.weight_clip_val': torch.zeros(2)}),
            'quantised BNext-18 is not supported',
        ),
        # a loop up to these numbers would not end
        (
            broken(**{'feature.999999999.x': torch.zeros(1)}),
            r'1 are unknown \(feature.999999999.x\)',
        ),
        (
            broken('18', **{'layer999999999.0.x': torch.zeros(1)}),
            r'1 are unknown \(layer999999999.0.x\)',
        ),
        (
            broken('18', **{'layer0.999999999.x': torch.zeros(1)}),
            r'1 are unknown \(layer0.999999999.x\)',
        ),
        # every pair of modules doubles the width
        (
            broken(
                **{f'feature.{i}.FFN_1.x{j}': torch.zeros(1) for i in range(60) for j in range(30)}
            ),
            'describes a network that is too large',
        ),
        # building a network of so many blocks took over ten seconds
        (
            broken(**{f'feature.{i}.x': torch.zeros(1) for i in range(300)}),
            r'has \d+ entries, too few for 299 blocks',
        ),
        (
            broken('18', **{f'layer0.{i}.x': torch.zeros(1) for i in range(300)}),
            r'has \d+ entries, too few for 30\d blocks',
        ),
    ],
)
def test_contradictions_are_named(state, message):
    with pytest.raises(ValueError, match=f'the given dict: .*{message}'):
        load_published(state)
