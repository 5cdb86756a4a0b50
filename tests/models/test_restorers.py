"""The diffusion model in mmengine: loss, sampling, preprocessing, errors."""

import sys

import pytest
import torch
from mmengine.registry import MODELS

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.analysis import measure_capacity
from mmesbnn.engine.tensor_mode import tensor_mode
from mmesbnn.images.bicubic import resize
from mmesbnn.images.tensors import to_uint8
from mmesbnn.models.restorers import SRDataPreprocessor
from tests.datasets.sr_folders import crop_of

diffusers = pytest.importorskip('diffusers')

UNET = dict(
    type='BIDiffSRUNet',
    base_channels=8,
    num_levels=2,
    blocks_per_level=1,
    norm_groups=4,
    total_steps=20,
    banks=2,
    tau=2,
)
#: ``a_t`` from near 1 to near 0.
SCHEDULER = dict(total_steps=20, beta_start=1e-3, beta_end=0.5)


def make(**kwargs):
    options = dict(
        type='SRDiffusion',
        unet=UNET,
        scale=2,
        scheduler=SCHEDULER,
        sampling=dict(num_inference_steps=3),
    )
    return MODELS.build({**options, **kwargs})


def batch(count=3, side=16, scale=2):
    hr = torch.stack([crop_of(i, side, side) for i in range(count)])
    lr = resize(hr, (side // scale, side // scale))
    names = [f'image{i}' for i in range(count)]
    samples = dict(hr=hr, index=torch.arange(count) + 4, name=names, set_name=['Set5'] * count)
    return dict(inputs=lr, data_samples=samples)


class Spy(torch.nn.Module):
    """Replaces the UNet: keeps its inputs and predicts 0.25."""

    def __init__(self, unet):
        super().__init__()
        self.config, self.size_factor = unet.config, unet.size_factor
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, sample, timestep):
        self.sample, self.timestep = sample, timestep
        prediction = torch.full_like(sample[:, :3], 0.25) + self.weight
        return type('Output', (), dict(sample=prediction))


def spied(seed=0, **kwargs):
    """Return the model, the data and the losses of one step."""
    model = make(**kwargs)
    model.unet = Spy(model.unet)
    data = model.data_preprocessor(batch(), True)
    torch.manual_seed(seed)
    losses = model(**data, mode='loss')
    return model, data, losses


def by_hand(model, data, timesteps):
    """Return signal ``a``, noise level, image and the noise that was drawn."""
    betas = torch.linspace(1e-3, 0.5, 20, dtype=torch.float64)
    a = torch.cumprod(1 - betas, 0)[timesteps].view(-1, 1, 1, 1)
    hr = data['data_samples']['hr'].double()
    noisy = model.unet.sample[:, 3:].double()
    return a.sqrt(), (1 - a).sqrt(), hr, (noisy - a.sqrt() * hr) / (1 - a).sqrt()


def test_loss_is_l1_of_the_noise():
    model, data, losses = spied()
    _, _, hr, noise = by_hand(model, data, model.unet.timestep)
    assert noise.shape == (3, 3, 16, 16)
    assert abs(noise.mean()) < 0.15 and abs(noise.std() - 1) < 0.1
    expected = (noise - 0.25).abs().mean()
    assert losses.keys() == {'loss_l1'}
    assert losses['loss_l1'].item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.equal(hr.float(), batch()['data_samples']['hr'].float() / 255)


def test_condition_is_the_bicubic_image():
    model, _, _ = spied()
    small = batch()['inputs'].double() / 255
    expected = resize(small, (16, 16)).clamp(0, 1)
    assert (model.unet.sample[:, :3] - expected).abs().max() < 1e-6
    wild = torch.zeros(1, 3, 4, 4)
    wild[..., :2] = 1
    assert resize(wild, (8, 8)).max() > 1
    assert model.condition(wild).max() == 1


@pytest.mark.parametrize(
    ('kind', 'target'),
    [
        ('sample', lambda a, s, hr, noise: hr),
        ('v_prediction', lambda a, s, hr, noise: a * noise - s * hr),
    ],
)
def test_other_targets(kind, target):
    model, data, losses = spied(scheduler=dict(SCHEDULER, prediction_type=kind), loss='l2')
    expected = target(*by_hand(model, data, model.unet.timestep))
    expected = (expected - 0.25).square().mean().item()
    assert losses['loss_l2'].item() == pytest.approx(expected, abs=1e-5)


def test_timesteps_are_uniform_and_one_per_image():
    model = make()
    torch.manual_seed(0)
    drawn = torch.stack([model._draw_timesteps(torch.zeros(8)) for _ in range(500)])
    counts = torch.bincount(drawn.flatten(), minlength=20)
    assert len(counts) == 20 and counts.min() > 140 and counts.max() < 260
    assert (drawn != drawn[:, :1]).any(1).float().mean() > 0.95


def test_one_timestep_per_batch_is_an_option():
    model, _, _ = spied(timesteps='batch')
    drawn = [model._draw_timesteps(torch.zeros(3)) for _ in range(40)]
    assert all(len(t) == 3 and len(set(t.tolist())) == 1 for t in drawn)
    assert len({t[0].item() for t in drawn}) > 5


def test_published_schedule_by_default():
    model = make(unet={**UNET, 'total_steps': 2000}, scheduler=None)
    assert model.total_steps == 2000
    betas = torch.linspace(1e-6, 1e-2, 2000)
    assert torch.allclose(model.scheduler.betas, betas)
    pipeline = model.to_pipeline()
    pipeline.scheduler.set_timesteps(50)
    assert pipeline.scheduler.timesteps.tolist() == list(range(1960, -1, -40))


def test_a_training_step_moves_every_parameter():
    model = make()
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):  # for timesteps in any banks
        data = model.data_preprocessor(batch(6), True)
        loss = model(**data, mode='loss')['loss_l1']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert not still


def test_predictions_are_the_pipelines():
    model = make().eval()
    data = batch()
    results = model.test_step(data)
    pipeline = model.to_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    for i, result in enumerate(results):
        image = pipeline(
            data['inputs'][i][None],
            num_inference_steps=3,
            output_type='pt',
            generator=torch.Generator().manual_seed(10 + 4 + i),
        ).images[0]
        assert torch.equal(result['pred'], to_uint8(image))
        assert result['pred'].shape == (3, 16, 16)
        assert torch.equal(result['hr'], data['data_samples']['hr'][i])
        assert (result['name'], result['set_name']) == (f'image{i}', 'Set5')


def test_predictions_depend_on_nothing_but_the_image_and_the_seed():
    model = make().eval()
    together = [result['pred'] for result in model.val_step(batch())]
    torch.manual_seed(5)
    for i in range(3):
        data = batch()
        one = dict(
            inputs=[data['inputs'][i]],
            data_samples={k: v[i : i + 1] for k, v in data['data_samples'].items()},
        )
        assert torch.equal(model.val_step(one)[0]['pred'], together[i])
    other = make(seed=11).eval()
    other.load_state_dict(model.state_dict())
    assert not torch.equal(other.val_step(batch())[0]['pred'], together[0])


def test_images_of_any_size_can_be_tested():
    model = make().eval()
    sizes = [(5, 9), (8, 3), (1, 1)]
    lr = [crop_of(i, *size) for i, size in enumerate(sizes)]
    samples = dict(index=[0, 1, 2], name=list('abc'), set_name=['x'] * 3)
    results = model.test_step(dict(inputs=lr, data_samples=samples))
    got = [tuple(result['pred'].shape) for result in results]
    assert got == [(3, 2 * height, 2 * width) for height, width in sizes]


def test_the_exported_pipeline_gives_the_same_images(tmp_path):
    model = make(pipeline=dict(x0_clip='scheduler')).eval()
    model.to_pipeline().save_pretrained(tmp_path)
    from mmesbnn.diffusion import SRDiffusionPipeline

    loaded = SRDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.scale == 2 and loaded.config.x0_clip == 'scheduler'
    data = batch()
    image = loaded(data['inputs'][:1], num_inference_steps=3, seed=14, output_type='pt')
    assert torch.equal(to_uint8(image.images[0]), model.test_step(data)[0]['pred'])


def test_sampling_leaves_the_training_scheduler_alone():
    model = make().eval()
    before = dict(model.scheduler.config)
    model.test_step(batch())
    assert model.scheduler.num_inference_steps is None
    assert dict(model.scheduler.config) == before


def test_one_step_for_counting_is_always_the_same():
    model = make().eval()
    lr = torch.rand(1, 3, 4, 6)
    with torch.no_grad():
        assert model(lr).shape == (1, 3, 8, 12)
        assert torch.equal(model(lr), model(lr))


def test_one_step_takes_the_images_of_a_test_too():
    # hooks that measure a network in training give them, see mmesbnn.engine.tensor_mode
    model, data = make().eval(), batch(2)
    step = tensor_mode(model, data)
    expected = model(model.data_preprocessor(data, True)['inputs'], mode='tensor')
    assert torch.equal(step(), expected)
    assert measure_capacity(model, step, positions=64)


def test_lists_and_batches_are_the_same_to_the_preprocessor():
    data, preprocess = batch(), SRDataPreprocessor()
    listed = dict(inputs=list(data['inputs']), data_samples=dict(data['data_samples']))
    listed['data_samples']['hr'] = list(data['data_samples']['hr'])
    for given in (data, listed):
        trained = preprocess(given, True)
        assert torch.equal(trained['inputs'], data['inputs'].float() / 255)
        assert trained['data_samples']['hr'].shape == (3, 3, 16, 16)
        tested = preprocess(given, False)
        assert [x.shape for x in tested['inputs']] == [(3, 8, 8)] * 3
        assert tested['data_samples']['hr'][0].dtype == torch.uint8


def test_training_images_of_different_sizes():
    data = dict(inputs=[torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)])
    with pytest.raises(ValueError, match='inputs: images of a batch differ in size'):
        SRDataPreprocessor()(data, True)


@pytest.mark.parametrize('kind', [None, diffusers.UNet2DModel])
def test_crops_that_do_not_fit_the_network(kind):
    blocks = dict(block_out_channels=(8, 8), down_block_types=('DownBlock2D',) * 2)
    blocks |= dict(up_block_types=('UpBlock2D',) * 2, norm_num_groups=4, layers_per_block=1)
    model = make(scale=1)
    if kind:
        model.unet = kind(in_channels=6, out_channels=3, **blocks)
    data = model.data_preprocessor(batch(side=15, scale=1), True)
    with pytest.raises(ValueError, match=r'have 15 x 15 pixels, .* multiples of 2: set crop_size'):
        model(**data, mode='loss')


def test_data_of_another_scale():
    model = make()
    data = model.data_preprocessor(batch(scale=4), True)
    message = r'scale=2, but .* are \(4, 4\) and \(16, 16\) pixels'
    with pytest.raises(ValueError, match=message):
        model(**data, mode='loss')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(scale=0), 'scale=0 must be an integer >= 1'),
        (dict(scale=2.5), 'scale=2.5 must be an integer >= 1'),
        (dict(timesteps='all'), "timesteps='all' must be 'each' or 'batch'"),
        (dict(loss='l3'), "loss='l3' must be 'l1' or 'l2'"),
        (dict(seed=2**63), 'seed=9223372036854775808 must be an integer from 0 to'),
        (dict(pipeline=dict(x0_clip='no')), "x0_clip='no' must be 'data'"),
        (dict(sampling=dict(steps=3)), r"sampling=.*\['steps'\] is unknown"),
        # what the model itself gives would end the first validation
        (dict(sampling=dict(seed=0)), r"\['seed'\] is unknown"),
        (dict(sampling=dict(output_type='np')), r"\['output_type'\] is unknown"),
        (dict(sampling=dict(scale=4)), r"\['scale'\] is unknown"),
        (dict(sampling=dict(return_dict=False)), r"\['return_dict'\] is unknown"),
        (dict(sampling=dict(eta=-1)), 'eta=-1 must be a finite number >= 0'),
        (dict(sampling=dict(num_inference_steps='9')), "num_inference_steps='9' must be an int"),
        (
            dict(sampling=dict(num_inference_steps=3, tile_size=31)),
            'tile_size=31 must be a positive multiple of 2',
        ),
        (
            dict(sampling=dict(num_inference_steps=3, tile_size=32)),
            'tile_overlap=64 must be from 0 to 30',
        ),
        (
            dict(sampling=dict(num_inference_steps=21)),
            "num_inference_steps=21 must be from 1 to the schedule's 20",
        ),
        (dict(scheduler=dict(steps=3)), r"scheduler={'steps': 3}: .*unexpected keyword"),
        (dict(scheduler=dict(beta_schedule='x')), "scheduler={'beta_schedule': 'x'}: x is not"),
        (dict(scheduler=None), 'num_train_timesteps=2000, .* total_steps=20'),
        (
            dict(unet={**UNET, 'type': 'BIDiffSRResidualUNet'}),
            "prediction_type='epsilon', .* 'sample'",
        ),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_missing_diffusers_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    with pytest.raises(ImportError, match=r"SRDiffusion needs .*'mmesbnn\[sr\]'"):
        make()
