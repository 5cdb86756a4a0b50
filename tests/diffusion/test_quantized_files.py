"""Damaged and malicious folders of binary models are refused with a sentence."""

import json

import pytest
import torch

pytest.importorskip('diffusers')
pytest.importorskip('accelerate')

from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from mmesbnn.diffusion import BinaryConfig, BinaryQuantizer, binarize_unet
from tests.unets import ONE_LEVEL

NAME = 'down_blocks.0.resnets.0.conv1.conv'
BITS, SCALE = f'{NAME}.weight.bits', f'{NAME}.weight.scale'


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    """Folder of a small binary UNet."""
    folder = tmp_path_factory.mktemp('unet')
    torch.manual_seed(0)
    unet = UNet2DModel(**ONE_LEVEL)
    binarize_unet(unet, options=BinaryConfig())
    unet.save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(original, tmp_path):
    """Function that writes a changed copy of the folder and loads it."""

    def load(tensors=None, **options):
        config = json.loads((original / 'config.json').read_text())
        config['quantization_config'].update(options)
        (tmp_path / 'config.json').write_text(json.dumps(config))
        file = 'diffusion_pytorch_model.safetensors'
        changed = {**load_file(original / file), **(tensors or {})}
        save_file({k: x for k, x in changed.items() if x is not None}, tmp_path / file)
        return UNet2DModel.from_pretrained(tmp_path)

    return load


def test_the_folder_itself_is_fine(damaged):
    assert isinstance(damaged().hf_quantizer, BinaryQuantizer)


WRONG_TENSORS = {
    'bits are missing': ({BITS: None}, rf'lack {NAME}\.weight of UNet2DModel'),
    'bits are short': ({BITS: torch.zeros(3, dtype=torch.uint8)}, 'bits: 3 bytes of bits for'),
    'bits are long': ({BITS: torch.zeros(10**5, dtype=torch.uint8)}, '100000 bytes of bits for'),
    'bits are floats': ({BITS: torch.zeros(72)}, 'bits of torch.float32, not of torch.uint8'),
    'bits are a matrix': ({BITS: torch.zeros(8, 9, dtype=torch.uint8)}, '72 bytes of bits for'),
    'scales are short': ({SCALE: torch.ones(2)}, 'scale: 4 floating-point numbers'),
    'scales are integers': ({SCALE: torch.ones(4, dtype=torch.int32)}, 'it has torch.int32'),
    'scales are NaN': ({SCALE: torch.full((4,), float('nan'))}, 'must be finite'),
    'scales are infinite': ({SCALE: torch.full((4,), float('inf'))}, 'must be finite'),
    'scales are negative': ({SCALE: -torch.ones(4)}, 'must be finite and not negative'),
    'weights are floats': ({f'{NAME}.weight': torch.ones(4, 16, 3, 3)}, 'as numbers, but'),
    'scales twice': ({f'{NAME}.weight_binarizer.scale': torch.ones(4)}, 'as numbers, but'),
    'bits of a float layer': (
        {'conv_in.weight.bits': torch.zeros(27, dtype=torch.uint8)},
        'hold conv_in.weight.bits, but quantization_config names no such layer',
    ),
    'thresholds are missing': (
        {'down_blocks.0.resnets.0.conv1.shift': None},
        r'lack down_blocks.0.resnets.0.conv1.shift',
    ),
    'a float weight is missing': ({'conv_in.weight': None}, 'lack conv_in.weight of UNet2DModel'),
    'a shape is wrong': (
        {'down_blocks.0.resnets.0.conv1.shift': torch.ones(7)},
        'conv1.shift expected shape',
    ),
}


@pytest.mark.parametrize('case', WRONG_TENSORS)
def test_wrong_tensors_are_named(damaged, case):
    tensors, message = WRONG_TENSORS[case]
    with pytest.raises(ValueError, match=message):
        damaged(tensors)


WRONG_OPTIONS = {
    'an unknown layer': (dict(layers=['nothing']), "no linear layer 'nothing'"),
    'the model itself': (dict(layers=['mid_block']), "no linear layer 'mid_block'"),
    'a norm': (dict(layers=['mid_block.resnets.0.norm1']), 'no convolution and no linear layer'),
    'an unsuitable factor': (dict(tau=3), r'nothing to binarize|cannot become binary'),
    'huge groups': (dict(es_groups=2**16), r'nothing to binarize|cannot become binary'),
    'other layers': (dict(layers=['mid_block.resnets.0.conv1']), r'lack down_blocks\.0\.resnets'),
    'an unknown option': (dict(tow=2), "option='tow' is unknown"),
    'code': (dict(sign=dict(type='builtins.eval')), 'sign=.*eval.*must be one of'),
    'latent weights': (dict(packed=False), r'lack .*\.conv\.weight of UNet2DModel'),
}


@pytest.mark.parametrize('case', WRONG_OPTIONS)
def test_wrong_options_are_named(damaged, case):
    options, message = WRONG_OPTIONS[case]
    with pytest.raises(ValueError, match=message):
        damaged(**options)


def test_scales_of_one_may_be_missing(damaged):
    unet = damaged({SCALE: None})
    weight = unet.down_blocks[0].resnets[0].conv1.conv.effective_weight()
    assert (weight.abs() == 1).all()


@pytest.mark.parametrize('devices', ['auto', {'conv_in': 'cpu', 'mid_block': 'meta'}, {'': 'disk'}])
def test_a_distributed_model_is_refused(original, devices):
    with pytest.raises(ValueError, match=r'device_map=.* must name one device'):
        UNet2DModel.from_pretrained(original, device_map=devices)


def test_one_device_is_fine(original):
    assert UNet2DModel.from_pretrained(original, device_map='cpu').device.type == 'cpu'
