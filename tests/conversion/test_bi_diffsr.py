"""Converted BI-DiffSRs predict the published noise; wrong files are refused."""

import itertools

import pytest
import torch
from mmengine.registry import MODELS

pytest.importorskip('diffusers')

from mmesbnn.conversion import bi_diffsr, convert, convert_file, load_published
from mmesbnn.conversion.common import replaced_prefix
from tests.reference.published_bi_diffsr import PUBLISHED, Network, predict, random_state, shapes

NETWORKS = {
    'three levels': Network(16, norm_groups=16),
    'attention, all binary': Network(8, (1, 2), 2, 8, attn=(0, 1), real=()),
    'all real above, three banks': Network(8, (1, 2), 1, 8, real=(0, 1), banks=3),
}


def light_state(net):
    """Return all shapes of a large file, without memory for them."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes(net).items()}


@pytest.mark.parametrize('name', NETWORKS)
def test_predictions_are_the_published_ones_for_every_bank(name):
    net = NETWORKS[name]
    state = random_state(net)
    model_cfg, converted = load_published(dict(params=state))
    model = MODELS.build(model_cfg).double().eval()
    model.load_state_dict(converted, strict=True)
    condition, noisy = torch.randn(2, 2, 3, 8, 8, dtype=torch.double)
    seen = []
    for bank in range(net.banks):
        t = torch.tensor([(bank * net.steps) // net.banks + 7] * 2)
        with torch.no_grad():
            ours = model.unet(torch.cat([condition, noisy], 1), t).sample
        theirs = predict(state, net, condition, noisy, t)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
        seen.append(theirs)
    for one, two in itertools.pairwise(seen):
        assert (one - two).abs().max() > 1e-3


def test_the_published_size_is_recognised():
    result = convert(dict(params=light_state(PUBLISHED)))
    assert result.warning is None
    assert result.summary['network'] == 'BI-DiffSR'
    assert result.summary['channels'] == '64, 128, 256, 512'
    assert result.model_cfg == dict(
        type='SRDiffusion',
        scale=2,
        timesteps='batch',
        pipeline=dict(x0_clip='scheduler'),
        unet=dict(
            type='BIDiffSRUNet',
            in_channels=6,
            out_channels=3,
            base_channels=64,
            norm_groups=16,
            num_levels=4,
            blocks_per_level=2,
            attn_levels=[],
            fp_levels=[0, 1],
            banks=5,
            sign_zero=0,
        ),
    )


def test_binarized_it_never_sees_a_zero():
    state = random_state(NETWORKS['three levels'])
    cfg, converted = load_published(state, binarize=True)
    published, same = load_published(state)
    assert cfg['unet'].pop('sign_zero') == -1
    assert published['unet'].pop('sign_zero') == 0
    assert cfg == published
    assert all(torch.equal(same[key], converted[key]) for key in same)


def test_a_file_becomes_a_file_that_the_model_loads(tmp_path):
    state = random_state(NETWORKS['three levels'])
    torch.save(dict(params=state), tmp_path / 'net_g.pth')
    convert_file(tmp_path / 'net_g.pth', tmp_path / 'out.pth')
    written = torch.load(tmp_path / 'out.pth', weights_only=True)
    expected = convert(dict(params=state))
    assert written['meta']['model'] == expected.model_cfg
    assert written['state_dict'].keys() == expected.state_dict.keys()
    for key, value in expected.state_dict.items():
        assert torch.equal(written['state_dict'][key], value), key
    MODELS.build(written['meta']['model']).load_state_dict(written['state_dict'])


def without(*names, **more):
    state = light_state(NETWORKS['three levels'])
    return {**{k: v for k, v in state.items() if not k.startswith(names)}, **more}


@pytest.mark.parametrize(
    'state, message',
    [
        (
            without('downs.1.res_block.block1.conv.TaR.dynamic_move_3.'),
            r'BI-DiffSR.*1 are missing \(downs\.1\.res_block\.block1\.conv\.TaR\.dyn',
        ),
        (without('mid.1.'), r'\d+ are missing \(mid\.1\.'),
        (without('final_conv'), r'lacks the key final_conv\.block\.3\.weight'),
        (without('downs.5.'), 'has 5 layers in downs, 2 of which downsample'),
        (without('nothing', extra=torch.zeros(1)), r'1 are unknown \(extra\)'),
        (
            without('nothing', **{'mid.0.attn.qkv.weight': torch.zeros(3)}),
            r'mid\.0\.attn\.qkv\.weight: \(3,\) for \(192, 64, 1, 1\)',
        ),
        (
            without(
                'nothing', **{'downs.2.biconv1.TaA.dynamic_relu_0.pr_prelu.weight': torch.ones(1)}
            ),
            r'pr_prelu\.weight: \(1,\) for \(8,\)',
        ),
        # every level doubles the width
        (
            without(
                'downs.',
                **{'downs.0.weight': torch.zeros(16, 6, 3, 3)},
                **{f'downs.{i}.{j}': torch.zeros(1) for i in range(1, 80, 2) for j in range(48)},
                **{f'downs.{i}.biconv1.x': torch.zeros(1) for i in range(2, 79, 2)},
            ),
            'num_levels=40 must be an integer from 1 to 16',
        ),
        # one name for each block, and building the network took half a minute
        (
            without(
                'downs.',
                'mid.0.',
                **{'downs.0.weight': torch.zeros(16, 6, 3, 3)},
                **{f'downs.{i}.x': torch.zeros(1) for i in range(1, 201)},
            ),
            r'has \d+ entries, too few for 200 blocks with 1 banks',
        ),
        # a million entries in the converted network
        (
            without(
                'downs.',
                'mid.0.',
                **{'downs.0.weight': torch.zeros(16, 6, 3, 3)},
                **{f'downs.{i}.x': torch.zeros(1) for i in range(1, 1001)},
                **{
                    f'mid.0.res_block.block1.conv.TaR.dynamic_move_{i}.bias': torch.zeros(1)
                    for i in range(1000)
                },
            ),
            r'has \d+ entries, too few for 1000 blocks with 1000 banks',
        ),
    ],
)
def test_contradictions_are_named(state, message):
    with pytest.raises(ValueError, match=f'the given dict: .*{message}'):
        load_published(state)


def test_networks_for_other_images_are_refused():
    state = light_state(Network(8, (1, 2), 1, 8, channels=(2, 1)))
    with pytest.raises(ValueError, match='reads 2 channels and predicts 1, not 6'):
        load_published(state)


class Counted(dict):
    """Dict that counts how often it is searched."""

    searches = 0

    def __iter__(self):
        self.searches += 1
        return super().__iter__()


def test_names_are_not_searched_for_each_layer():
    state = Counted({f'downs.{i}.biconv1.weight': torch.zeros(1) for i in range(100)})
    with pytest.raises(ValueError, match='has 100 layers in downs'):
        bi_diffsr.unet_cfg(state, binarize=False)
    assert state.searches < 5
    prefixes = Counted({'stages.0.': 'a.', 'stages.0.act.': 'b.', 'stages.1.bias': 'c'})
    keys = ('stages.0.conv.weight', 'stages.0.act.slope', 'stages.1.bias')
    found = [replaced_prefix(key, prefixes) for key in keys]
    assert found == [('a.', 'conv.weight'), ('b.', 'slope'), ('c', '')]
    assert not prefixes.searches
