"""The pipeline samples as published and supports the usual types of images."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('diffusers')

import diffusers

from mmesbnn.diffusion import BIDiffSRUNet, SRDiffusionPipeline, make_scheduler
from mmesbnn.diffusion.bi_diffsr import UNet2DOutput
from mmesbnn.images.bicubic import resize

TINY = dict(base_channels=4, num_levels=3, blocks_per_level=1, norm_groups=2, fp_levels=(0,))


def unet(**kwargs):
    torch.manual_seed(0)
    return BIDiffSRUNet(**{**TINY, **kwargs}).eval()


def pipeline(model=None, **kwargs):
    pipe = SRDiffusionPipeline(unet() if model is None else model, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def photo(height=6, width=9):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


# ------------------------------------------------------------------ arithmetic


def ddim(model, condition, x, steps, clip):
    """Run the published test loop: DDIM without fresh noise, in float64."""
    betas = torch.linspace(1e-6, 1e-2, 2000, dtype=torch.float32)
    products = torch.cumprod(1 - betas, 0).double()
    stride = 2000 // steps
    for t in range((steps - 1) * stride, -1, -stride):
        with torch.no_grad():
            noise = model(torch.cat([condition, x], 1), t).sample
        now = products[t]
        after = products[t - stride] if t >= stride else torch.tensor(1.0)
        image = (x - (1 - now).sqrt() * noise) / now.sqrt()
        if clip == 'data':
            image = image.clamp(0, 1)
            noise = (x - now.sqrt() * image) / (1 - now).sqrt()
        else:
            image = image.clamp(-1, 1)
        x = after.sqrt() * image + (1 - after).sqrt() * noise
    return x


@pytest.mark.parametrize('clip', ['data', 'scheduler'])
def test_samples_as_the_published_loop(clip):
    model = unet(tau=2).double()
    small = torch.rand(2, 3, 4, 6, dtype=torch.double)
    noise = torch.randn(2, 3, 8, 12, dtype=torch.double)
    pipe = pipeline(model, x0_clip=clip)
    got = pipe(small, 2, 5, latents=noise, output_type='pt').images
    expected = ddim(model, resize(small, (8, 12)).clamp(0, 1), noise, 5, clip)
    torch.testing.assert_close(got, expected.clamp(0, 1), rtol=0, atol=1e-5)


def test_both_ways_to_clip_differ():
    small, noise = torch.rand(1, 3, 4, 4), torch.randn(1, 3, 8, 8)
    one, two = (
        pipeline(x0_clip=clip)(small, 2, 10, latents=noise, output_type='pt').images
        for clip in ('data', 'scheduler')
    )
    assert (one - two).abs().max() > 1e-3


class Oracle(diffusers.ModelMixin, diffusers.ConfigMixin):
    """Knows the image and predicts exactly the noise, or the target of ``kind``."""

    size_factor = 4

    @diffusers.configuration_utils.register_to_config
    def __init__(self, in_channels=6, out_channels=3, kind='epsilon'):
        super().__init__()
        self.dummy = torch.nn.Parameter(torch.zeros((), dtype=torch.double))
        self.target, self.seen = None, []

    def forward(self, sample, timestep, return_dict=True):
        self.seen.append(float(timestep))
        noisy, t = sample[:, 3:], float(timestep)
        table = make_scheduler().alphas_cumprod.double()
        sigma = np.interp(t, np.arange(2000), ((1 - table) / table).sqrt())
        a, s = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        noise = (noisy - a * self.target) / s
        y = dict(
            epsilon=noise,
            sample=self.target.expand_as(noisy),
            v_prediction=a * noise - s * self.target,
        )[self.config.kind]
        return UNet2DOutput(sample=y) if return_dict else (y,)


SCHEDULERS = [
    'DDIMScheduler',
    'DDPMScheduler',
    'DPMSolverMultistepScheduler',
    'EulerDiscreteScheduler',
    'HeunDiscreteScheduler',
    'UniPCMultistepScheduler',
    'PNDMScheduler',
    'EulerAncestralDiscreteScheduler',
    'DDIMParallelScheduler',
    'DDPMParallelScheduler',
]


@pytest.mark.parametrize(
    'name, kind',
    [
        *((name, 'epsilon') for name in SCHEDULERS),
        *((name, 'sample') for name in SCHEDULERS[:4]),
        *((name, 'v_prediction') for name in SCHEDULERS[:4]),
    ],
)
def test_a_perfect_network_gives_the_image_with_any_scheduler(name, kind):
    config = make_scheduler(prediction_type=kind).config
    scheduler = getattr(diffusers, name).from_config(config)
    oracle = Oracle(kind=kind)
    oracle.target = torch.rand(1, 3, 8, 8, dtype=torch.double)
    pipe = pipeline(oracle, scheduler=scheduler, scale=1)
    got = pipe(oracle.target, 1, 10, seed=0, output_type='pt').images
    assert len(oracle.seen) >= 10
    # most schedulers end at the least noise of the schedule, sigma 1e-3
    torch.testing.assert_close(got, oracle.target, rtol=0, atol=5e-3)


@pytest.mark.parametrize('name', ['DDIMScheduler', 'DDPMScheduler'])
@pytest.mark.parametrize('kind', ['sample', 'v_prediction'])
@pytest.mark.parametrize('x0_clip', ['data', 'scheduler'])
def test_sampling_can_begin_without_signal(name, kind, x0_clip):
    options = dict(rescale_betas_zero_snr=True, timestep_spacing='trailing')
    config = make_scheduler(prediction_type=kind, **options).config
    scheduler = getattr(diffusers, name).from_config(config)
    pipe = pipeline(unet(), scheduler=scheduler, x0_clip=x0_clip)
    got = pipe(photo(), 2, 3, seed=0, output_type='pt').images
    assert pipe.scheduler.timesteps[0] == 1999
    assert torch.isfinite(got).all()


def test_noise_has_the_level_of_the_first_step_of_the_sampling():
    # leading timesteps do not contain the noisiest steps
    config = make_scheduler(timestep_spacing='leading').config
    scheduler = diffusers.EulerDiscreteScheduler.from_config(config)
    oracle = Oracle()
    oracle.target = torch.rand(1, 3, 8, 8, dtype=torch.double)
    noise = torch.randn(1, 3, 8, 8, dtype=torch.double)
    seen = []
    oracle.register_forward_pre_hook(lambda module, args: seen.append(args[0][:, 3:]))
    pipeline(oracle, scheduler=scheduler)(oracle.target, 1, 4, latents=noise, output_type='pt')
    assert oracle.seen[0] == 1500
    torch.testing.assert_close(seen[0], noise, rtol=1e-6, atol=1e-6)


def test_what_the_data_cannot_be_is_clipped_at_every_step():
    oracle = Oracle()
    oracle.target = torch.tensor([-0.7, 0.4, 1.6]).double().view(1, 3, 1, 1)
    noise = torch.randn(1, 3, 8, 8, dtype=torch.double)
    image = torch.rand(1, 3, 8, 8, dtype=torch.double)
    pipe = pipeline(oracle, scale=1)
    seen = []
    step = pipe.scheduler.step

    def watch(*args, **kwargs):
        result = step(*args, **kwargs)
        seen.append(result.pred_original_sample)
        return result

    pipe.scheduler.step = watch
    got = pipe(image, 1, 5, latents=noise, output_type='pt').images
    expected = oracle.target.clamp(0, 1).expand_as(got)
    assert len(seen) == 5
    for x0 in seen:
        torch.testing.assert_close(x0, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    'name, options',
    [
        ('EulerDiscreteScheduler', dict(interpolation_type='log_linear')),
        ('HeunDiscreteScheduler', dict(use_exponential_sigmas=True)),
        ('KDPM2DiscreteScheduler', dict(use_karras_sigmas=True)),
        ('KDPM2AncestralDiscreteScheduler', dict()),
        ('DPMSolverMultistepScheduler', dict(use_karras_sigmas=True)),
        ('UniPCMultistepScheduler', dict(use_beta_sigmas=True)),
    ],
)
@pytest.mark.parametrize('kind', ['epsilon', 'v_prediction'])
def test_images_are_clipped_also_if_levels_of_noise_are_between_timesteps(name, options, kind):
    levels = dict(beta_start=0.3, beta_end=0.9, num_train_timesteps=4, prediction_type=kind)
    scheduler = getattr(diffusers, name)(**levels, **options)
    pipe = pipeline(unet(total_steps=4), scheduler=scheduler)
    call = 'convert_model_output' if hasattr(scheduler, 'convert_model_output') else 'step'
    compute, seen = getattr(scheduler, call), []

    def watch(*args, **kwargs):
        result = compute(*args, **kwargs)
        seen.append(getattr(result, 'pred_original_sample', result))
        return result

    setattr(scheduler, call, watch)
    pipe(photo(), 2, 4, seed=0, output_type='pt')
    assert len(seen) >= 4
    images = torch.stack(seen)
    assert images.min() > -1e-4 and images.max() < 1 + 1e-4
    assert images.min() < 1e-4 or images.max() > 1 - 1e-4  # some were clipped


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('DDIMInverseScheduler', {}, 'DDIMInverseScheduler has rising timesteps'),
        ('DDIMScheduler', dict(num_train_timesteps=1000), 'num_train_timesteps=1000, but'),
        ('DDIMScheduler', dict(prediction_type='sample'), "'sample', but the network predicts"),
        ('UniPCMultistepScheduler', dict(use_flow_sigmas=True), 'has use_flow_sigmas=True'),
    ],
)
def test_a_scheduler_that_replaces_that_of_a_pipeline_is_checked(name, options, message):
    model = unet()
    model.prediction_type = 'epsilon'
    pipe = pipeline(model)
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    with pytest.raises(ValueError, match=message):
        pipe(photo(), 2, 2, seed=0)


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (3, 2), (5, 9), (8, 8)])
@pytest.mark.parametrize('scale', [1, 2, 3, 4])
def test_any_size_and_scale(size, scale):
    (got,) = pipeline()(photo(*size), scale, 2, seed=0).images
    assert (got.height, got.width) == (scale * size[0], scale * size[1])


def test_padding_is_by_reflection_and_cropped():
    model = unet()
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    small = torch.rand(1, 3, 5, 3)
    got = pipeline(model)(small, 2, 1, seed=0, output_type='pt').images
    assert got.shape == (1, 3, 10, 6)
    condition = seen[0][:, :3]
    upsampled = resize(small, (10, 6)).clamp(0, 1)
    padded = np.pad(upsampled[0].numpy(), [(0, 0), (0, 2), (0, 2)], mode='reflect')
    assert np.array_equal(condition[0].numpy(), padded)


class Local(Oracle):
    """Computes each pixel from itself only, so tiles make no difference."""

    def forward(self, sample, timestep, return_dict=True):
        self.seen.append(tuple(sample.shape[-2:]))
        return ((sample[:, 3:] * 0.7 - sample[:, :3]).tanh(),)


@pytest.mark.parametrize('overlap', [0, 4, 7, 12])
def test_tiles_are_the_whole_image_if_nothing_is_seen_beyond_them(overlap):
    small = torch.rand(2, 3, 11, 23, dtype=torch.double)
    local = Local()
    pipe = pipeline(local)

    def run(**tiles):
        local.seen.clear()
        return pipe(small, 2, 3, seed=0, output_type='pt', **tiles).images

    whole = run()
    assert set(local.seen) == {(24, 48)}
    tiled = run(tile_size=16, tile_overlap=overlap)
    assert set(local.seen) == {(16, 16)}
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-10)


def test_an_image_no_larger_than_a_tile_is_not_cut():
    small = photo(6, 8)
    pipe = pipeline()
    pipe.to(torch.double)
    options = dict(seed=0, output_type='np')
    one = pipe(small, 2, 2, **options).images
    two = pipe(small, 2, 2, **options, tile_size=16, tile_overlap=4).images
    np.testing.assert_allclose(one, two, atol=1e-5)


# ------------------------------------------------------------------ in and out


def test_output_types_show_the_same():
    pipe = pipeline()
    images = {
        kind: pipe([photo(), photo()], 2, 3, seed=5, output_type=kind).images
        for kind in ('pil', 'np', 'pt')
    }
    assert images['pt'].shape == (2, 3, 12, 18)
    assert images['np'].shape == (2, 12, 18, 3)
    assert images['np'].dtype == np.float32
    assert images['np'].min() >= 0 and images['np'].max() <= 1
    assert np.array_equal(images['np'], images['pt'].permute(0, 2, 3, 1).numpy())
    for one, pil in zip(images['np'], images['pil']):
        assert pil.mode == 'RGB'
        assert np.array_equal(np.asarray(pil), np.floor(one * 255 + 0.5))
    (listed,) = pipe(photo(), 2, 3, seed=5, return_dict=False)
    assert len(listed) == 1


def test_grey_opaque_and_deep_images_go_in(tmp_path):
    pipe = pipeline()
    deep = np.random.default_rng(0).integers(0, 65536, (5, 6)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / 'deep.png')
    for given in (
        photo().convert('L'),
        photo().convert('RGBA'),
        deep,
        Image.open(tmp_path / 'deep.png'),
    ):
        (got,) = pipe(given, 2, 1, seed=0).images
        assert got.mode == 'RGB'


def test_a_seed_is_a_generator_and_others_give_other_images():
    pipe = pipeline().to(torch.double)

    def run(**kwargs):
        return pipe(photo(), 2, 3, output_type='np', **kwargs).images

    first = run(seed=3)
    assert np.array_equal(first, run(seed=3))
    assert np.array_equal(first, run(generator=torch.Generator().manual_seed(3)))
    assert not np.array_equal(first, run(seed=4))
    two = [torch.Generator().manual_seed(i) for i in (3, 4)]
    both = pipe([photo()] * 2, 2, 3, output_type='np', generator=two).images
    np.testing.assert_allclose(both, np.concatenate([first, run(seed=4)]), atol=1e-5)


def test_eta_adds_noise_of_the_generator():
    pipe = pipeline()

    def run(eta):
        return pipe(photo(), 2, 4, seed=1, eta=eta, output_type='np').images

    assert not np.array_equal(run(0.0), run(1.0))
    assert np.array_equal(run(1.0), run(1.0))


def test_progress_is_shown_step_by_step(capsys):
    pipe = SRDiffusionPipeline(unet())
    pipe(photo(), 2, 7, seed=0)
    assert '7/7' in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(photo(), 2, 7, seed=0)
    assert capsys.readouterr().err == ''


def test_the_network_is_left_as_it_was_and_without_gradients():
    model = unet(dropout=0.9).train()
    got = pipeline(model)(photo(), 2, 2, seed=0, output_type='pt').images
    assert not got.requires_grad
    assert all(module.training for module in model.modules())
    evaluated = pipeline(model.eval())(photo(), 2, 2, seed=0, output_type='pt').images
    assert torch.equal(got, evaluated)  # no dropout while sampling
    assert not any(module.training for module in model.modules())
    part = next(model.train().children()).eval()  # such as frozen norms
    pipeline(model)(photo(), 2, 2, seed=0, output_type='pt')
    assert model.training and not part.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_dtypes_are_the_networks_alone(dtype):
    pipe = pipeline(unet()).to(dtype)
    got = pipe(photo(), 2, 3, seed=0, output_type='pt').images
    assert got.dtype == torch.float32
    assert got.isfinite().all()


# ------------------------------------------------------------------ whole


def test_saved_and_loaded_whole_it_gives_the_same(tmp_path):
    config = make_scheduler().config
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(config)
    pipe = pipeline(unet(tau=2), scheduler=scheduler, scale=4, x0_clip='scheduler')
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / 'unet/diffusion_pytorch_model.safetensors').exists()
    loaded = SRDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.scale == 4
    assert loaded.config.x0_clip == 'scheduler'
    assert type(loaded.scheduler) is diffusers.DPMSolverMultistepScheduler
    assert loaded.unet.config.tau == 2
    one, two = (
        p.to(torch.double)(photo(3, 3), num_inference_steps=4, seed=0, output_type='np')
        for p in (pipe, loaded)
    )
    assert one.images.shape == (1, 12, 12, 3)
    np.testing.assert_allclose(one.images, two.images, atol=1e-5)


@pytest.mark.parametrize('name', SCHEDULERS)
def test_a_saved_pipeline_of_every_scheduler_is_loaded(name, tmp_path):
    scheduler = getattr(diffusers, name).from_config(make_scheduler().config)
    pipeline(unet(), scheduler=scheduler).save_pretrained(tmp_path)
    assert type(SRDiffusionPipeline.from_pretrained(tmp_path).scheduler) is type(scheduler)


def test_a_pipeline_is_made_from_the_parts_of_another_one():
    pipe = pipeline(unet(), scale=3, x0_clip='scheduler')
    made = SRDiffusionPipeline.from_pipe(pipe, scale=1)
    assert made.components == pipe.components
    assert (made.config.scale, made.config.x0_clip) == (1, 'scheduler')
    other = unet()
    assert SRDiffusionPipeline.from_pipe(pipe, unet=other).unet is other


def test_components_replace_what_was_saved(tmp_path):
    pipeline().save_pretrained(tmp_path)
    scheduler = diffusers.EulerDiscreteScheduler.from_config(make_scheduler().config)
    loaded = SRDiffusionPipeline.from_pretrained(tmp_path, scheduler=scheduler, scale=3)
    assert loaded.scheduler is scheduler
    assert loaded.config.scale == 3


def test_a_unet_of_diffusers_fits_as_well():
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        in_channels=6,
        out_channels=3,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=('DownBlock2D',) * 2,
        up_block_types=('UpBlock2D',) * 2,
    ).eval()
    pipe = pipeline(model)
    assert pipe.scheduler.config.num_train_timesteps == 2000
    (got,) = pipe(photo(5, 5), 2, 2, seed=0).images
    assert got.size == (10, 10)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(scale=0), 'scale=0 must be an integer >= 1'),
        (dict(scale=1.5), 'scale=1.5 must be an integer >= 1'),
        (dict(x0_clip='tanh'), "x0_clip='tanh' must be"),
        (dict(scheduler=make_scheduler(1000)), 'num_train_timesteps=1000, but the network'),
        (dict(model=unet(in_channels=3)), 'unet has in_channels=3 and out_channels=3'),
    ],
)
def test_bad_pipelines_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**kwargs)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(scale=True), 'scale=True must be an integer >= 1'),
        (dict(num_inference_steps=0), 'num_inference_steps=0 must be an integer >= 1'),
        (dict(num_inference_steps=2001), 'num_inference_steps=2001 is more than the'),
        (dict(output_type='latent'), "output_type='latent' must be one of"),
        (dict(tile_size=30), 'tile_size=30 must be a positive multiple of 4'),
        (dict(tile_size=32, tile_overlap=30), 'tile_overlap=30 must be from 0 to 28'),
        (dict(seed=1, generator=torch.Generator()), 'seed=1 cannot be combined with gen'),
        (
            dict(seed=2**64),
            'seed=18446744073709551616 must be an integer from 0 to 18446744073709551615',
        ),
        (dict(generator=3), 'generator=3 must be a torch.Generator or a list'),
        (dict(generator=[3]), r'generator=\[3\] must be a torch.Generator or a list'),
        (dict(generator=[torch.Generator()] * 2), 'generator is a list of 2, but there'),
        (dict(latents=torch.zeros(1, 3, 6, 9)), r'latents has shape \(1, 3, 6, 9\)'),
        (dict(image='photo.png'), 'image is a str'),
    ],
)
def test_bad_calls_are_refused_before_sampling(kwargs, message):
    model = unet()
    model.register_forward_pre_hook(lambda *args: pytest.fail('the network ran'))
    with pytest.raises(ValueError, match=message):
        pipeline(model)(**{'image': photo(), **kwargs})


def test_a_network_that_wants_words_is_refused():
    words = diffusers.UNet2DConditionModel(
        in_channels=6,
        out_channels=3,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=('DownBlock2D',),
        up_block_types=('UpBlock2D',),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
    )
    with pytest.raises(ValueError, match='UNet2DConditionModel, which needs encoder_h'):
        pipeline(words)


def test_a_network_that_wants_classes_is_refused():
    classes = diffusers.UNet2DModel(
        in_channels=6,
        out_channels=3,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=('DownBlock2D',) * 2,
        up_block_types=('UpBlock2D',) * 2,
        num_class_embeds=5,
    )
    with pytest.raises(ValueError, match='UNet2DModel with an embedding of classes'):
        pipeline(classes)


def test_images_of_nan_raise_an_error():
    # the timesteps 3, 2, 2 and 1: the solver divides by the difference of two equal levels
    levels = dict(beta_start=0.3, beta_end=0.9, num_train_timesteps=4, prediction_type='sample')
    pipe = pipeline(unet(total_steps=4), scheduler=diffusers.DPMSolverMultistepScheduler(**levels))
    assert len(pipe(photo(), 2, 3, seed=0).images) == 1
    message = 'NaN or infinite after num_inference_steps=4 of scheduler=DPMSolverMultistepSched'
    with pytest.raises(ValueError, match=message):
        pipe(photo(), 2, 4, seed=0)


@pytest.mark.parametrize(('name', 'steps'), [('PNDMScheduler', 3), ('UnCLIPScheduler', 1)])
def test_names_a_number_of_steps_that_a_scheduler_cannot_make(name, steps):
    pipe = pipeline(unet(total_steps=10), scheduler=getattr(diffusers, name)(10))
    message = f'num_inference_steps={steps} is not possible with scheduler={name}'
    with pytest.raises(ValueError, match=message):
        pipe(photo(), 2, steps, seed=0)
