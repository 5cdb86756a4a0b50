"""Converted BinaryViTs compute the published logits; wrong files are refused."""

from argparse import Namespace

import pytest

pytest.importorskip('mmpretrain')

import torch
from mmpretrain.registry import MODELS

import mmesbnn  # noqa: F401 (registers the backbone)
from mmesbnn.conversion import convert, load_published
from mmesbnn.models.backbones.vit_archs import ARCHS
from tests.reference.published_binary_vit import Network, logits, random_state, shapes

PLAIN = dict(
    dims=(128,), depths=(2,), heads=(2,), ffn_dims=(512,), sr_ratios=(1,), patch=16, image=64
)
NETWORKS = {
    'pyramid': Network(),
    'some-fp': Network(some_fp=True, num_classes=7),
    'three stages': Network(
        (64, 128, 256), (1, 1, 1), (1, 2, 4), (64, 256, 256), (4, 2, 1), image=64
    ),
    'plain': Network(**PLAIN),
    'plain, no scales': Network(**PLAIN, layer_scale=False),
    'plain, no scales, no branches': Network(**PLAIN, layer_scale=False, pools=()),
}


def build(state):
    cfg, converted = load_published(state)
    model = MODELS.build(cfg).double().eval()
    model.load_state_dict(converted, strict=True)
    return model


@pytest.mark.parametrize('name', NETWORKS)
def test_logits_are_the_published_ones(name):
    net = NETWORKS[name]
    state = random_state(net)
    x = torch.randn(2, 3, net.image, net.image, dtype=torch.double)
    x[:, :, : net.patch] = 0
    with torch.no_grad():
        ours, theirs = build(state)(x, mode='tensor'), logits(state, net, x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert theirs.std(0).min() > 1e-3  # the images influence the result


def test_published_sign_of_zero_matters_here():
    """Another sign of zero changes the logits, so the parity tests check it."""
    net = NETWORKS['pyramid']
    state = random_state(net)
    x = torch.randn(1, 3, 32, 32, dtype=torch.double)
    ours = MODELS.build(load_published(state, binarize=True)[0]).double().eval()
    ours.load_state_dict(load_published(state)[1])
    with torch.no_grad():
        assert not torch.allclose(ours(x, mode='tensor'), logits(state, net, x))


def published(arch, some_fp=False):
    spec = ARCHS[arch]
    lists = ('dims', 'depths', 'heads', 'ffn_dims', 'sr_ratios')
    net = Network(
        *(tuple(spec[name]) for name in lists),
        patch=spec['patch_size'],
        image=224,
        some_fp=some_fp,
        num_classes=1000,
    )
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes(net).items()}


@pytest.mark.parametrize(
    'arch, some_fp, title',
    [
        ('small', False, 'BinaryViT'),
        ('small', True, 'BinaryViT (some-fp)'),
        ('deit-small', False, 'plain binary DeiT'),
    ],
)
def test_published_sizes_are_recognised_by_name(arch, some_fp, title):
    result = convert(published(arch, some_fp))
    assert result.model_cfg == dict(
        type='ImageClassifier',
        backbone=dict(
            type='BinaryViT',
            arch=arch,
            img_size=224,
            some_fp=some_fp,
            layer_scale=True,
            pool_sizes=[3, 5],
            in_channels=3,
            sign_zero=0,
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=ARCHS[arch]['dims'][-1]),
    )
    assert result.summary['network'] == title
    assert result.warning is None


def test_training_checkpoint_file_with_its_arguments(tmp_path):
    state = random_state(NETWORKS['pyramid'])
    path = tmp_path / 'best.pth'
    content = dict(model=state, optimizer={}, epoch=3, args=Namespace(lr=5e-4))
    torch.save(content, path)
    cfg, converted = load_published(path)
    bare_cfg, bare = load_published(state)
    assert cfg == bare_cfg
    assert all(torch.equal(converted[key], bare[key]) for key in bare)


def broken(**changes):
    state = random_state(NETWORKS['pyramid'])
    for key, value in changes.items():
        state.pop(key, None)
        if value is not None:
            state[key] = value
    return state


LAYER = 'vit.encoder.layer.1'


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'vit.embeddings.cls_token': torch.zeros(1, 1, 64)}, 'class token'),
        ({f'{LAYER}.output.move': None}, rf'1 are missing \({LAYER}.output.move'),
        (
            {f'{LAYER}.output.dense.bias': torch.zeros(1)},
            rf'1 are unknown \({LAYER}.output.dense.bias',
        ),
        ({f'{LAYER}.output.move': torch.zeros(3)}, r'output.move: \(3,\) for \(512,\)'),
        ({'vit.embeddings.position_embeddings': torch.zeros(1, 65, 64)}, 'not a square'),
        (
            {f'{LAYER}.attention.attention.query.weight': torch.zeros(96, 96)},
            r'has 96 rows; the stages have \[64, 128\]',
        ),
        (
            {f'{LAYER}.attention.attention.query.weight': torch.zeros(64, 64)},
            '10 are missing .*1.attention.attention.reduction.weight',
        ),
        ({'classifier.weight': None}, 'lacks the key classifier.weight'),
        # building a network of so many layers took over ten seconds
        (
            {
                f'vit.encoder.layer.{i}.attention.attention.query.weight': torch.zeros(128, 128)
                for i in range(2, 100)
            },
            r'has \d+ entries, too few for 100 layers',
        ),
        (
            {f'vit.encoder.layer.0.layerscale_h{i}.alpha': torch.zeros(1) for i in range(2, 999)},
            r'has \d+ entries, too few for 3 layers',
        ),
    ],
)
def test_odd_files_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        load_published(broken(**changes))
