"""Files of earlier versions still load."""

import json
from pathlib import Path

import pytest
import torch

from mmesbnn.old_forms import current_config, current_options

TESTS = Path(__file__).parent

#: Logits that commit 1b8685a computed before it packed the networks.
LOGITS = {
    'es_groups': [0.03643755987286568, 0.03277268260717392, -0.10275929421186447],
    'binary_transformer': [1.3839434385299683, 0.8352994918823242, 0.5273619890213013],
}


@pytest.mark.parametrize('name', LOGITS)
def test_a_packed_file_of_an_earlier_version_loads(name):
    pytest.importorskip('mmpretrain')
    from mmesbnn.deploy import load_packed

    model = load_packed(TESTS / 'deploy' / 'earlier' / f'{name}.safetensors')
    image = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    with torch.no_grad():
        logits = model(image)
    logits = logits[-1] if isinstance(logits, (tuple, list)) else logits
    torch.testing.assert_close(logits.flatten(), torch.tensor(LOGITS[name]))


def test_the_model_in_a_checkpoint_of_an_earlier_version_is_built(tmp_path):
    pytest.importorskip('mmpretrain')
    from mmesbnn.deploy import load_packed
    from mmesbnn.deploy.packed.checkpoint_network import read_network
    from mmesbnn.deploy.packed.unpacking import read_packed

    packed = TESTS / 'deploy' / 'earlier' / 'es_groups.safetensors'
    model = json.loads(read_packed(packed)[1]['config'])['model']
    state = load_packed(packed).state_dict()
    torch.save(dict(state_dict=state, meta=dict(model=model)), tmp_path / 'net.pth')
    built, *_ = read_network(tmp_path / 'net.pth')
    assert built.state_dict().keys() == state.keys()


def test_a_unet_config_of_an_earlier_version_builds():
    diffusers = pytest.importorskip('diffusers')
    import mmesbnn.diffusion.binarized  # noqa: F401  (lets diffusers know the classes)

    config = json.loads((TESTS / 'diffusion' / 'earlier_unet.json').read_text())
    assert config['_mmesbnn_binarized']['options']['groups'] == 2
    unet = diffusers.UNet2DModel.from_config(config)
    conv = unet.down_blocks[0].resnets[0].conv1
    assert (conv.expansion.tau, conv.expansion.groups, conv.groups) == (2, 2, 1)


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        (dict(type='ESConv2d', groups=2), dict(type='ESConv2d', es_groups=2)),
        (dict(type='mmesbnn.ESLinear', groups=2), dict(type='mmesbnn.ESLinear', es_groups=2)),
        (dict(type='ESConv2d', groups=4, es_groups=2), None),
        (dict(type='ESConv2d', groups=8, in_channels=8), None),
        (dict(type='BNext', groups=2), None),
        (dict(type='Conv2d', groups=2), None),
        (dict(type='binary_transformer'), dict(type='BinaryTransformer')),
        (
            dict(type='binary_transformer', sign_zero=0, tau=2),
            dict(
                type='BinaryTransformer',
                tau=2,
                sign=dict(type='quadratic', zero=0),
                weight_binarizer=dict(type='centred_sign', zero=0),
            ),
        ),
        (dict(type='BinaryViT', sign_zero=0), None),
        (dict(type=int, groups=2), None),
        (3, None),
    ],
)
@pytest.mark.parametrize('around', [lambda x: x, lambda x: dict(a=[(x,)])])
def test_configs_are_translated_wherever_they_are_nested(old, new, around):
    assert current_config(around(old)) == around(old if new is None else new)


def test_options_are_translated():
    assert current_options(dict(tau=2, groups=4)) == dict(tau=2, es_groups=4)
    assert current_options(dict(tau=2, es_groups=4)) == dict(tau=2, es_groups=4)
