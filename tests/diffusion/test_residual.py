"""The UNet that predicts images."""

import pytest
import torch
from mmengine.registry import MODELS

pytest.importorskip('diffusers')

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.diffusion import BIDiffSRUNet, SRDiffusionPipeline, make_scheduler
from mmesbnn.diffusion.residual import BIDiffSRResidualUNet
from mmesbnn.images.bicubic import resize

TINY = dict(
    base_channels=8, num_levels=2, blocks_per_level=1, norm_groups=4, total_steps=4, banks=2, tau=2
)


def build(kind='BIDiffSRResidualUNet'):
    return MODELS.build(dict(type=kind, **TINY)).eval()


def test_prediction_is_condition_plus_a_twentieth_of_the_networks():
    image, noise = build(), build('BIDiffSRUNet')
    noise.load_state_dict(image.state_dict())
    sample = torch.randn(2, 6, 8, 12)
    with torch.no_grad():
        expected = sample[:, :3] + 0.05 * noise(sample, 3).sample
        got = image(sample, 3).sample
        (as_tuple,) = image(sample, 3, return_dict=False)
    assert torch.allclose(got, expected, atol=1e-7)
    assert torch.equal(got, as_tuple)


def test_a_network_of_zeros_is_bicubic_upsampling(tmp_path):
    unet = build()
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    noise = dict(beta_start=0.3, beta_end=0.9)
    scheduler = make_scheduler(4, prediction_type='sample', **noise)
    pipeline = SRDiffusionPipeline(unet, scheduler)
    pipeline.save_pretrained(tmp_path)
    loaded = SRDiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded.unet) is type(unet)
    assert SRDiffusionPipeline(unet).scheduler.config.prediction_type == 'sample'
    with pytest.raises(ValueError, match=r"'epsilon', .* 'sample'"):
        SRDiffusionPipeline(unet, make_scheduler(4))
    small = torch.rand(1, 3, 5, 6)
    expected = resize(small, (10, 12)).clamp(0, 1)
    for one in (pipeline, loaded):
        one.set_progress_bar_config(disable=True)
        image = one(small, num_inference_steps=4, seed=0, output_type='pt').images
        assert torch.allclose(image, expected, atol=1e-6)


@pytest.mark.parametrize('wrong', [True, False])
@pytest.mark.parametrize('kind', ['BIDiffSRUNet', 'BIDiffSRResidualUNet'])
def test_only_the_own_class_loads_a_folder(tmp_path, kind, wrong):
    unet = build(kind)
    unet.save_pretrained(tmp_path)
    if not wrong:
        assert type(type(unet).from_pretrained(tmp_path)) is type(unet)
        return
    other = ({BIDiffSRUNet, BIDiffSRResidualUNet} - {type(unet)}).pop()
    with pytest.raises(ValueError, match=f'describes a {kind}; known are {other.__name__}$'):
        other.from_pretrained(tmp_path)
