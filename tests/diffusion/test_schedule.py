"""The published schedule, and the clipping of predictions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip('diffusers')

import diffusers
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from mmesbnn.diffusion.schedule import (
    check_scheduler,
    clip_prediction,
    make_scheduler,
    signal_and_noise,
)


def test_the_default_is_the_published_schedule():
    scheduler = make_scheduler()
    betas = np.linspace(1e-6, 1e-2, 2000)
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), np.cumprod(1 - betas), rtol=1e-4)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == list(range(1960, -1, -40))
    assert scheduler.config.prediction_type == 'epsilon'
    assert scheduler.config.clip_sample
    assert scheduler.config.clip_sample_range == 1.0
    assert scheduler.final_alpha_cumprod == 1.0


def test_other_schedules_are_an_argument_away():
    config = make_scheduler(100, beta_end=0.02, prediction_type='sample').config
    assert (config.num_train_timesteps, config.beta_start) == (100, 1e-6)
    assert (config.beta_end, config.prediction_type) == (0.02, 'sample')


def test_signal_and_noise_are_the_schedules_and_between_two_between_them():
    scheduler = make_scheduler()
    for t in (0, 77, 1999):
        signal, noise = signal_and_noise(scheduler, torch.tensor(t))
        assert signal**2 == pytest.approx(scheduler.alphas_cumprod[t].item())
        assert signal**2 + noise**2 == pytest.approx(1)
    ratios = [
        noise / signal
        for signal, noise in (signal_and_noise(scheduler, t) for t in (500, 500.25, 501))
    ]
    assert ratios[1] == pytest.approx(0.75 * ratios[0] + 0.25 * ratios[2])


def test_a_timestep_without_signal_is_noise_alone():
    scheduler = make_scheduler(rescale_betas_zero_snr=True)
    assert signal_and_noise(scheduler, 1999) == (0.0, 1.0)
    assert signal_and_noise(scheduler, 1998.5) == (0.0, 1.0)
    assert signal_and_noise(scheduler, 1998)[0] > 0


@given(
    image=st.floats(-3, 3),
    epsilon=st.floats(-3, 3),
    t=st.integers(0, 1999),
    kind=st.sampled_from(['epsilon', 'sample', 'v_prediction']),
)
def test_a_clipped_prediction_means_the_clipped_image(image, epsilon, t, kind):
    a, s = signal_and_noise(make_scheduler(), t)
    x = torch.tensor(a * image + s * epsilon, dtype=torch.double)

    def predict(image, epsilon):
        kinds = dict(epsilon=epsilon, sample=image, v_prediction=a * epsilon - s * image)
        return torch.tensor(kinds[kind], dtype=torch.double)

    clipped = min(max(image, 0.0), 1.0)
    expected = predict(clipped, (x.item() - a * clipped) / s)
    got = clip_prediction(predict(image, epsilon), x, a, s, kind)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    if image == clipped:
        torch.testing.assert_close(got, predict(image, epsilon), rtol=1e-6, atol=1e-6)


def test_a_clipped_prediction_goes_through_ddim_as_its_own_clipping():
    # x_0 in [-1, 1] and the noise made again from it: Glide's variant of DDIM
    scheduler = make_scheduler()
    scheduler.set_timesteps(50)
    x, prediction = torch.randn(2, 1, 3, 8, 8, dtype=torch.double)
    t = torch.tensor(1000)
    own = scheduler.step(prediction, t, x, use_clipped_model_output=True).prev_sample
    levels = signal_and_noise(scheduler, t)
    clipped = clip_prediction(prediction, x, *levels, 'epsilon', -1.0, 1.0)
    unclipped = make_scheduler(clip_sample=False)
    unclipped.set_timesteps(50)
    ours = unclipped.step(clipped, t, x).prev_sample
    torch.testing.assert_close(ours, own, rtol=0, atol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="prediction_type='flow' must be one of"):
        clip_prediction(torch.zeros(1), torch.zeros(1), 0.5, 0.5, 'flow')
    with pytest.raises(ValueError, match='FlowMatchEulerDiscreteScheduler has no alph'):
        check_scheduler(FlowMatchEulerDiscreteScheduler(), None)
    for kind in (DPMSolverMultistepScheduler, UniPCMultistepScheduler):
        flow = kind.from_config(make_scheduler().config, use_flow_sigmas=True)
        with pytest.raises(ValueError, match='Scheduler has use_flow_sigmas=True'):
            check_scheduler(flow, 2000)
    with pytest.raises(ValueError, match=r'num_train_timesteps=1000, .* total_steps'):
        check_scheduler(DDIMScheduler(), 2000)
    silent = dict(rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="'epsilon' and a timestep without signal"):
        check_scheduler(make_scheduler(**silent), 2000)
    check_scheduler(make_scheduler(**silent, prediction_type='sample'), 2000)
    check_scheduler(DDIMScheduler(), None)
    check_scheduler(make_scheduler(), 2000)
    with torch.device('meta'):
        check_scheduler(make_scheduler(), 2000)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('CogVideoXDPMScheduler', r"needs \['model_output', 'old_pred_original_sample', "),
        ('RePaintScheduler', r"needs \[.*, 'original_image', 'mask'\]: it must need"),
        ('DDIMInverseScheduler', 'has rising timesteps, from the image to noise'),
        ('DPMSolverMultistepInverseScheduler', 'has rising timesteps'),
    ],
)
def test_schedulers_that_sample_something_else_are_refused(name, message):
    scheduler = getattr(diffusers, name).from_config(make_scheduler().config)
    with pytest.raises(ValueError, match=f'scheduler={name} .*{message}'):
        check_scheduler(scheduler, None)
