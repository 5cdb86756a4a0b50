"""Pipelines for super-resolution are loaded from folders of every kind."""

import pytest
import torch

pytest.importorskip('diffusers')
pytest.importorskip('accelerate')

from mmesbnn.conversion import load_sr_pipeline
from mmesbnn.diffusion import BinaryConfig, SRDiffusionPipeline, binarize_unet
from tests.unets import ONE_LEVEL


@pytest.mark.parametrize('place', ['', 'unet'])
def test_packed_weights_are_loaded(tmp_path, place):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(in_channels=6, **ONE_LEVEL)
    binarize_unet(unet, options=BinaryConfig())
    pipeline = SRDiffusionPipeline(unet.eval())
    pipeline.save_pretrained(tmp_path)
    again = load_sr_pipeline(tmp_path / place)
    image = torch.rand(1, 3, 5, 6)
    options = dict(num_inference_steps=1, seed=0, output_type='pt')
    assert torch.equal(again(image, **options).images, pipeline(image, **options).images)
