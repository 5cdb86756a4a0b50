"""Upscaling with numpy equals the diffusers pipeline."""

import numpy as np
import pytest
import torch
from torch import nn

from mmesbnn.deploy.runtime.manifest import ExportError
from mmesbnn.deploy.runtime.sampling import enlarge, pad_reflect, tiled, upscale
from mmesbnn.deploy.tasks.super_resolution import sampling_decoding
from mmesbnn.images.bicubic import resize
from tests.real_data import photograph

pytest.importorskip('diffusers')

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from mmesbnn.diffusion import SRDiffusionPipeline
from mmesbnn.diffusion.schedule import make_scheduler


class Denoiser(ModelMixin, ConfigMixin):
    """A network without signs, because signs turn rounding errors into jumps."""

    size_factor = 8

    @register_to_config
    def __init__(self, in_channels=6, out_channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, sample, timestep, return_dict=True):
        return (self.conv(sample).sin() + timestep / 2000,)


def make_pipeline(x0_clip='data', **scheduler):
    pipeline = SRDiffusionPipeline(Denoiser().eval(), make_scheduler(**scheduler), x0_clip=x0_clip)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture(height, width):
    return photograph(1)[:height, :width].astype(np.float32) / 255


@pytest.mark.parametrize('size', [(5, 9), (1, 1), (2, 3)])
@pytest.mark.parametrize('scale', [1, 2, 4])
def test_enlarges_as_matlab_does(size, scale):
    image = picture(*size).astype(np.float64)
    new = tuple(scale * side for side in size)
    expected = resize(torch.from_numpy(image).permute(2, 0, 1), new)
    found = enlarge(image, scale)
    np.testing.assert_allclose(found, expected.permute(1, 2, 0), atol=1e-12)


@pytest.mark.parametrize('size', [(5, 9), (1, 1), (8, 16), (2, 3)])
def test_pads_as_the_pipeline_does(size):
    from mmesbnn.diffusion.tiling import pad_reflect as reference

    image = picture(*size)
    expected = reference(torch.from_numpy(image).permute(2, 0, 1), 8)
    np.testing.assert_array_equal(pad_reflect(image, 8), expected.permute(1, 2, 0))


@pytest.mark.parametrize('x0_clip', ['data', 'scheduler'])
@pytest.mark.parametrize('kind', ['epsilon', 'sample', 'v_prediction'])
@pytest.mark.parametrize(
    'options', [{}, dict(clip_sample_range=0.6), dict(clip_sample=False)], ids=str
)
def test_samples_as_the_pipeline_does(x0_clip, kind, options):
    pipeline = make_pipeline(x0_clip=x0_clip, prediction_type=kind, **options)
    image = picture(7, 10)
    noise = torch.randn(1, 3, 16, 24)
    expected = pipeline(image, num_inference_steps=4, latents=noise, output_type='np')

    def network(sample, t):
        with torch.no_grad():
            sample = torch.from_numpy(sample)
            return pipeline.unet(sample, t, return_dict=False)[0].numpy()

    found = upscale(image, network, sampling_decoding(pipeline), steps=4, noise=noise.numpy())
    assert found.shape == (14, 20, 3)
    np.testing.assert_allclose(found, expected.images[0], atol=2e-5)


def test_tiles_are_blended_as_in_the_pipeline():
    pipeline = make_pipeline()
    image = picture(9, 17)
    noise = torch.randn(1, 3, 24, 40)
    expected = pipeline(
        image, num_inference_steps=3, latents=noise, output_type='np', tile_size=16, tile_overlap=5
    )
    seen = []

    def network(sample, t):
        seen.append(sample.shape)
        with torch.no_grad():
            sample = torch.from_numpy(sample)
            return pipeline.unet(sample, t, return_dict=False)[0].numpy()

    found = upscale(
        image,
        tiled(network, (16, 16), 5, 8),
        sampling_decoding(pipeline),
        steps=3,
        noise=noise.numpy(),
    )
    assert set(seen) == {(1, 6, 16, 16)}
    assert len(seen) == 3 * 2 * 4
    np.testing.assert_allclose(found, expected.images[0], atol=2e-5)


def test_small_images_are_padded_to_the_least_size():
    image = picture(5, 9)
    padded = pad_reflect(image, 8, (16, 8))
    assert padded.shape == (16, 16, 3)
    np.testing.assert_array_equal(padded[:8, :9], image[[0, 1, 2, 3, 4, 3, 2, 1]])


@pytest.mark.parametrize('x0_clip', ['data', 'scheduler'])
@pytest.mark.parametrize('options', [dict(thresholding=True), dict(timestep_spacing='trailing')])
def test_other_ways_to_sample_are_not_exported(x0_clip, options):
    ((name, value),) = options.items()
    with pytest.raises(ExportError, match=f'scheduler=DDIMScheduler with {name}={value!r}: the'):
        sampling_decoding(make_pipeline(x0_clip=x0_clip, **options))


def test_bad_arguments():
    pipeline = make_pipeline()
    image, decoding = picture(8, 8), sampling_decoding(pipeline)
    with pytest.raises(ValueError, match='steps=0 must be an integer from 1 to 2000'):
        upscale(image, None, decoding, steps=0)
    with pytest.raises(ValueError, match=r'noise has shape \(1, 3, 8, 8\)'):
        upscale(image, None, decoding, noise=np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(ValueError, match='noise has dtype <U1: must be real numbers'):
        upscale(image, None, decoding, noise=['a'])


def test_steps_of_numpy_and_noise_in_a_list():
    decoding = sampling_decoding(make_pipeline())
    image = np.full((4, 4, 3), 0.5, np.float32)
    noise = np.random.default_rng(0).standard_normal((1, 3, 8, 8), np.float32)

    def network(sample, t):
        return sample[:, 3:] * 0.5

    expected = upscale(image, network, decoding, steps=2, noise=noise)
    found = upscale(image, network, decoding, steps=np.int64(2), noise=noise.tolist())
    np.testing.assert_array_equal(found, expected)
