"""Converted SSDs compute the published raw outputs; wrong files are refused."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmesbnn.conversion import convert, load_published
from mmesbnn.models.backbones.bidet_vgg import BiDetVGG
from tests.reference.published_bidet_ssd import Network, base, random_state, raw_outputs, shapes

NARROW = Network(
    widths=(8, 8, 16, 16, 24, 32), tail=40, extras=(16, 32, 8, 16, 12, 24, 12, 24), num_classes=5
)


def light_state(net):
    """Return all shapes of a large file, without memory for them."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes(net).items()}


def images(size=300):
    x = 50 * torch.randn(2, 3, size, size, dtype=torch.double)
    x[:, :, :9] = 0
    return x


def float64_l2_norm(neck):
    """Let mmdet's L2Norm compute in float64; by default it always uses float32."""
    weight = neck.l2_norm.weight.view(1, -1, 1, 1)

    def forward(x):
        return weight * x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)

    neck.l2_norm.forward = forward


def listed(levels, size):
    """Return maps in the published order, box by box."""
    flat = [x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, size) for x in levels]
    return torch.cat(flat, 1)


def build_detector(cfg, state):
    pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')
    init_default_scope('mmdet')
    model = MODELS.build(cfg).double().eval()
    model.load_state_dict(state, strict=True)
    return model


def our_outputs(model, x, num_classes):
    """Return box distributions and logits in the published order."""
    features = model.neck(model.backbone(x))
    scores, distributions = model.bbox_head.distributions(features)
    return listed(distributions, 8), listed(scores, num_classes).roll(1, -1)


def test_raw_outputs_are_the_published_ones():
    state, x = random_state(NARROW), images()
    cfg, converted = load_published(state)
    model = build_detector(cfg, converted)
    with torch.no_grad():
        theirs = raw_outputs(state, NARROW, x)
        single = our_outputs(model, x, 5)
        float64_l2_norm(model.neck)
        ours = our_outputs(model, x, 5)
    for a, b, c in zip(ours, theirs, single):
        assert a.shape[:2] == (2, 8732)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        # only the first map is rounded, by its normalisation in float32
        torch.testing.assert_close(c, b, rtol=0, atol=1e-6)
        assert b.std() > 0.1
    # in test mode the boxes are the means
    assert torch.equal(listed(model(x, mode='tensor')[1], 4), our_outputs(model, x, 5)[0][..., 4:])


def test_binarized_layers_see_no_zeros():
    state = random_state(NARROW)
    seen = {}
    for binarize in (False, True):
        cfg, converted = load_published(state, binarize=binarize)
        model = build_detector(cfg, converted)
        conv = model.neck.extra_layers[0][0].conv
        features = model.backbone(images(64))[1]
        seen[binarize] = set(conv.sign(features).unique().tolist())
    assert seen == {False: {0.0, 1.0}, True: {-1.0, 1.0}}


def test_layer_lists_become_backbones():
    state, x = random_state(NARROW, base_only=True), images(64)
    cfg, converted = load_published(state)
    assert cfg['type'] == 'ImageClassifier'
    prefix = 'backbone.'
    assert all(key.startswith(prefix) for key in converted)
    options = {k: v for k, v in cfg['backbone'].items() if k != 'type'}
    model = BiDetVGG(**options).double().eval()
    model.load_state_dict({k.removeprefix(prefix): v for k, v in converted.items()})
    with torch.no_grad():
        (ours,), (_, theirs) = model(x), base(state, NARROW, x, prefix='')
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_layer_lists_load_strictly_into_mmpretrain():
    mmpretrain = pytest.importorskip('mmpretrain')
    cfg, converted = load_published(random_state(NARROW, base_only=True))
    mmpretrain.registry.MODELS.build(cfg).load_state_dict(converted, strict=True)


@pytest.mark.parametrize(('classes', 'smallest'), [(21, 0.2), (81, 0.15)])
def test_the_published_network_is_recognised(classes, smallest):
    result = convert(light_state(Network(num_classes=classes)))
    cfg = result.model_cfg
    assert cfg['backbone']['arch'] == '16'
    head = cfg['bbox_head']
    assert head['num_classes'] == classes - 1
    assert head['in_channels'] == (512, 1024, 512, 256, 256, 256)
    assert head['anchor_generator']['basesize_ratio_range'][0] == smallest
    assert result.summary['network'] == 'BiDet SSD300'
    assert result.warning is None


@pytest.mark.parametrize('key', ['weight', None])
def test_both_kinds_of_published_files(tmp_path, key):
    state = {k: v.float() for k, v in random_state(NARROW).items()}
    content = {key: state, 'opt': {'state': {}, 'param_groups': []}} if key else state
    torch.save(content, tmp_path / 'model.pth')
    cfg, converted = load_published(tmp_path / 'model.pth')
    bare_cfg, bare = load_published(state)
    assert cfg == bare_cfg
    assert all(torch.equal(converted[name], bare[name]) for name in bare)


def test_the_source_is_not_modified():
    state = random_state(NARROW)
    before = {key: value.clone() for key, value in state.items()}
    load_published(state)
    assert all(torch.equal(state[key], before[key]) for key in state)


def without(name):
    return {k: v for k, v in light_state(NARROW).items() if k != name}


@pytest.mark.parametrize(
    ('state', 'message'),
    [
        (without('vgg.layers.19.weight'), 'lacks the key vgg.layers.19.weight'),
        (
            {**light_state(NARROW), 'vgg.layers.0.weight': torch.tensor(1.0)},
            r'vgg.layers.0.weight has shape \(\)',
        ),
        (without('vgg.layers.9.conv.weight'), r'has \[1, 3, 3\] blocks per stage'),
        (without('L2Norm.weight'), r'BiDet SSD300.*1 are missing \(L2Norm.weight'),
        ({**light_state(NARROW), 'fc.weight': torch.zeros(1)}, r'1 are unknown \(fc.weight'),
        (
            {**light_state(NARROW), 'loc.2.weight': torch.zeros(24, 32, 3, 3)},
            r'loc.2.weight: \(24, 32, 3, 3\) for \(48, 32, 3, 3\)',
        ),
        (
            {**light_state(NARROW), 'conf.1.weight': torch.zeros(20, 40, 3, 3)},
            r'conf.0 to conf.5 have \[20, 20, 30, 30, 20, 20\] rows',
        ),
        (
            {**light_state(NARROW), 'extras.1.weight': torch.zeros(16, 16, 3, 3)},
            'not twice as many',
        ),
    ],
)
def test_odd_files_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        convert(state)
