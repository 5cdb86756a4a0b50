"""Converted ReActNets compute the published logits; wrong files are refused."""

import dataclasses

import pytest

pytest.importorskip('mmpretrain')

import torch
from mmpretrain.registry import MODELS

from mmesbnn.conversion import convert, load_published
from tests.reference.published_reactnet import Network, logits, random_state, shapes

WIDTHS = (8, 16, 32, 32)
WIDTHS_18 = dict(channels=(8, 8, 16), depths=(2, 1))
NETWORKS = {
    'A, stage 1': Network(WIDTHS, binary=False),
    'A': Network(WIDTHS, name='weights', flat=True),
    'A of equal widths': Network((8, 8, 8, 16), name='weights', flat=True),
    '18': Network(**WIDTHS_18, num_classes=7),
    '18, flat': Network(**WIDTHS_18, flat=True),
    'Bi-Real': Network(**WIDTHS_18, name='weights', flat=True, shifts=False),
}


def build(model_cfg, state_dict):
    model = MODELS.build(model_cfg).double().eval()
    model.load_state_dict(state_dict, strict=True)
    return model


@pytest.mark.filterwarnings('ignore:.*(weights|stage)')
@pytest.mark.parametrize('name', NETWORKS)
def test_logits_are_the_published_ones(name):
    net = NETWORKS[name]
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    x[:, :, :9] = 0
    for seed in range(3):
        state = random_state(net, seed)
        with torch.no_grad():
            ours = build(*load_published(state))(x, mode='tensor')
            theirs = logits(state, net, x)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
        assert (theirs[0] - theirs[1]).abs().min() > 0


@pytest.mark.filterwarnings('ignore:.*(weights|stage)')
def test_wrapped_training_checkpoint_converts_like_its_bare_state_dict():
    state = random_state(NETWORKS['A'])
    wrapped = {f'module.{key}': value for key, value in state.items()}
    checkpoint = dict(epoch=127, state_dict=wrapped, best_top1_acc=69.5, optimizer={})
    bare_cfg, bare = load_published(state)
    cfg, converted = load_published(checkpoint)
    assert cfg == bare_cfg
    assert converted.keys() == bare.keys()
    assert all(torch.equal(converted[key], bare[key]) for key in bare)


def light_state(net):
    """Return all shapes of a large file, without memory for them."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes(net).items()}


A = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
A_18 = dict(channels=(64, 64, 128, 256, 512), depths=(4, 4, 4, 4))


@pytest.mark.parametrize(
    ('net', 'title', 'expected'),
    [
        (
            Network(A, binary=False, num_classes=1000),
            'ReActNet-A',
            dict(arch='A', generalized=True, weight_binarizer='real'),
        ),
        (
            Network(A, name='weights', flat=True, num_classes=1000),
            'ReActNet-A',
            dict(arch='A', generalized=True, weight_binarizer='scaled_sign'),
        ),
        (
            Network(**A_18, num_classes=1000),
            'ReActNet-18',
            dict(arch='18', generalized=True, weight_binarizer='scaled_sign'),
        ),
        (
            Network(**A_18, name='weights', flat=True, shifts=False, num_classes=1000),
            'Bi-Real-18',
            dict(arch='18', generalized=False, weight_binarizer='scaled_sign'),
        ),
    ],
    ids=['A, stage 1', 'A', '18', 'Bi-Real'],
)
def test_published_sizes_are_recognised_by_name(net, title, expected):
    result = convert(light_state(net))
    assert result.summary['network'] == title
    assert result.model_cfg == dict(
        type='ImageClassifier',
        backbone=dict(type='ReActNet', sign_zero=0, **expected),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=net.channels[-1]),
    )


def test_other_sizes_are_read_from_the_shapes():
    cfg = convert(light_state(NETWORKS['A of equal widths'])).model_cfg
    assert cfg['backbone']['arch'] == dict(channels=[8, 8, 8, 16])
    cfg = convert(light_state(NETWORKS['18, flat'])).model_cfg
    assert cfg['backbone']['arch'] == dict(channels=[8, 8, 16], depths=[2, 1])
    assert cfg['head']['num_classes'] == 10


# ------------------------------------------------------------------ stages


@pytest.mark.parametrize('name', ['A', '18, flat', 'Bi-Real'])
def test_files_of_stage_2_convert_without_a_warning(name, recwarn):
    load_published(random_state(NETWORKS[name]))
    assert not recwarn.list


def test_real_weights_of_stage_1_are_kept_with_a_warning():
    with pytest.warns(UserWarning, match='weights are real .first training stage') as w:
        cfg, _ = load_published(random_state(NETWORKS['A, stage 1']))
    assert len(w) == 1
    assert cfg['backbone']['weight_binarizer'] == 'real'


def test_binarized_stage_1_has_the_logits_of_its_signs():
    state = random_state(NETWORKS['A, stage 1'])
    # our sign(0) is -1 and theirs is 0, so remove all zeros
    state['feature.1.move11.bias'][:, :2] = 0.1
    for key in state:
        if '.binary_' in key:
            state[key][state[key] == 0] = -0.3
    with pytest.warns(UserWarning, match='made signs'):
        cfg, converted = load_published(state, binarize=True)
    assert cfg['backbone']['sign_zero'] == -1
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    net = dataclasses.replace(NETWORKS['A, stage 1'], binary=True)
    with torch.no_grad():
        ours, theirs = build(cfg, converted)(x, mode='tensor'), logits(state, net, x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_a_file_of_18_that_may_be_of_either_stage_says_how_to_read_it():
    net = NETWORKS['18']
    state = random_state(net)
    with pytest.warns(UserWarning, match="weight_binarizer to 'real'"):
        cfg, converted = load_published(state)
    cfg['backbone']['weight_binarizer'] = 'real'
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        theirs = logits(state, dataclasses.replace(net, binary=False), x)
        ours = build(cfg, converted)(x, mode='tensor')
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


# ------------------------------------------------------------------ refused files


def broken(net, **changes):
    """Return a file with some entries replaced, or removed (None)."""
    state = light_state(NETWORKS[net])
    for name, value in changes.items():
        state.pop(name) if value is None else state.update({name: value})
    return state


@pytest.mark.parametrize(
    'state, message',
    [
        (
            broken('A', **{'feature.2.move21.bias': None}),
            r'ReActNet variant.*1 are missing \(feature.2.move21.bias',
        ),
        # building a network of so many blocks took a minute
        (
            broken('A', **{f'feature.{i}.bn1.weight': torch.zeros(1) for i in range(1, 1000)}),
            r'has \d+ entries, too few for 999 blocks',
        ),
        (
            broken('18', **{f'layer1.{i}.bn1.weight': torch.zeros(8) for i in range(1, 1000)}),
            r'has \d+ entries, too few for 1\d+ blocks',
        ),
        (
            broken('A', **{'feature.3.binary_pw.weights': None}),
            r'1 are missing \(feature.3.binary_pw.weights',
        ),
        (broken('18', **{'fc.bias': None}), 'lacks the key fc.bias'),
        (broken('18', **{'bn1.weight': None}), 'lacks the key bn1.weight'),
        (broken('18', extra=torch.zeros(1)), r'1 are unknown \(extra\)'),
        (
            broken('A', **{'feature.1.binary_3x3.weights': torch.zeros(5, 1)}),
            r'binary_3x3.weights: \(5, 1\) for \(576, 1\)',
        ),
        (
            broken('18', **{'conv1.weight': torch.zeros(8, 3, 3, 3)}),
            r'conv1.weight: \(8, 3, 3, 3\) for \(8, 3, 7, 7\)',
        ),
        # every pair of convolutions doubles the width
        (
            broken(
                'A',
                **{
                    f'feature.{i}.{norm}.weight': torch.zeros(1)
                    for i in range(1, 60)
                    for norm in ('bn1', 'bn2_1', *'abcdef')
                },
            ),
            'describes a network that is too large',
        ),
    ],
)
def test_contradictions_are_named(state, message):
    with pytest.raises(ValueError, match=f'the given dict: .*{message}'):
        load_published(state)
