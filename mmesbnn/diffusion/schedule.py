"""Noise schedule of BI-DiffSR, and clipping of a prediction to the data's range.

A noisy image is ``x_t = a x_0 + s e`` with ``a^2 + s^2 = 1`` and Gaussian noise ``e``.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from ..checks import checked, positive_int

#: Kinds of predictions, with diffusers' names.
PREDICTION_TYPES = ('epsilon', 'sample', 'v_prediction')


@checked(total_steps=positive_int)
def make_scheduler(total_steps: int = 2000, **kwargs: Any) -> DDIMScheduler:
    """Make the published scheduler: DDIM with ``beta`` linear from 1e-6 to 1e-2.

    All other arguments have diffusers' defaults: noise is predicted; 50 steps use the
    timesteps 1960, 1920 .. 0; the last step gives ``x_0``; ``x_0`` is clipped to [-1, 1].

    Args:
        total_steps: Number of timesteps of the schedule. Default 2000.
        **kwargs: Arguments of ``DDIMScheduler`` to add or to replace.

    Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution" (2024).
    """
    options = dict(beta_start=1e-6, beta_end=1e-2, beta_schedule='linear')
    return DDIMScheduler(num_train_timesteps=total_steps, **{**options, **kwargs})


def signal_and_noise(scheduler: Any, timestep: Tensor | float) -> tuple[float, float]:
    """Return ``(a, s)`` at a timestep; between two timesteps ``s / a`` is interpolated.

    A timestep without signal (``rescale_betas_zero_snr``) has ``(0, 1)``, and so has what
    lies between it and the one before.

    Args:
        scheduler: Scheduler with ``alphas_cumprod``, which is ``a^2`` of every timestep.
        timestep: Timestep, which can be fractional.
    """
    signal = scheduler.alphas_cumprod.double().cpu()
    t = min(max(float(timestep), 0.0), len(signal) - 1.0)
    low, high = signal[int(t)], signal[min(int(t) + 1, len(signal) - 1)]
    ratios = [((1 - x) / x).sqrt().item() for x in (low, high)]
    share = t - int(t)
    # without the case distinction 0 times an infinite ratio would be NaN
    return _levels(ratios[0] + share * (ratios[1] - ratios[0]) if share else ratios[0])


def _levels(ratio: float) -> tuple[float, float]:
    """Return ``(a, s)`` from ``s / a``."""
    if math.isinf(ratio):
        return 0.0, 1.0
    scale = (1 + ratio**2) ** -0.5
    return scale, ratio * scale


def levels_of_step(scheduler: Any, index: int, timestep: Tensor | float) -> tuple[float, float]:
    """Return ``(a, s)`` of the network's input at a step of the sampling.

    Schedulers with ``sigmas`` choose ``s / a`` of every step. Its timestep may be rounded,
    or belong to another ``s / a``, for example with ``use_karras_sigmas``.

    Args:
        scheduler: Scheduler after ``set_timesteps``, which has taken ``index`` steps.
        index: Index of the step.
        timestep: Timestep of the step.
    """
    sigmas = getattr(scheduler, 'sigmas', None)
    if not getattr(scheduler, 'state_in_first_order', True):
        # KDPM2 evaluates every second time in the middle of two levels; its ancestral form
        # lists the middle with the level before it
        sigmas = getattr(scheduler, 'sigmas_interpol', sigmas)
        index -= hasattr(scheduler, 'sigmas_down')
    if sigmas is None:
        return signal_and_noise(scheduler, timestep)
    return _levels(float(sigmas[index]))


def check_prediction_type(kind: str) -> None:
    """Raise a ``ValueError`` if ``kind`` is not one of ``PREDICTION_TYPES``."""
    if kind not in PREDICTION_TYPES:
        raise ValueError(f'prediction_type={kind!r} must be one of {PREDICTION_TYPES}')


def clip_prediction(
    prediction: Tensor,
    x: Tensor,
    signal: float,
    noise: float,
    kind: str,
    low: float = 0.0,
    high: float = 1.0,
) -> Tensor:
    """Return the prediction that corresponds to ``clamp(x_0, low, high)``.

    ``x_0`` is the image that follows from ``prediction``. With ``y = clamp(x_0)`` and
    ``e = (x - a y) / s`` the result is ``e``, ``y`` or ``a e - s y``. Any scheduler then
    continues from the clipped image and the noise that belongs to it.

    Args:
        prediction: Output of the network.
        x: Noisy image ``a x_0 + s e``, the input of the network.
        signal: ``a``.
        noise: ``s``, not 0.
        kind: ``'epsilon'``, ``'sample'`` or ``'v_prediction'``. The network predicts
            ``e``, ``x_0`` or ``a e - s x_0``.
        low: Smallest value of the data. Default 0.
        high: Largest value of the data. Default 1.

    Raises:
        ValueError: If ``kind`` is none of these.
    """
    check_prediction_type(kind)
    if kind == 'sample':
        return prediction.clamp(low, high)
    if kind == 'epsilon':
        image = (x - noise * prediction) / signal
    else:
        image = signal * x - noise * prediction
    image = image.clamp(low, high)
    epsilon = (x - signal * image) / noise
    return epsilon if kind == 'epsilon' else signal * epsilon - noise * image


def check_scheduler(
    scheduler: Any, total_steps: int | None, prediction_type: str | None = None
) -> None:
    """Check that a scheduler matches a network.

    Args:
        scheduler: Any scheduler of diffusers.
        total_steps: Number of timesteps of the network, None if it is unknown.
        prediction_type: Kind of the network's prediction, None if it is unknown. Default
            None.

    Raises:
        ValueError: If the scheduler has no variance-preserving schedule (flow matching has
            none), has another number of timesteps, or expects another kind of prediction;
            if it expects the noise at a timestep without signal; or if it is no sampler,
            such as one that makes noise from an image or fills holes.
    """
    name = type(scheduler).__name__
    levels = getattr(scheduler, 'alphas_cumprod', None)
    if not torch.is_tensor(levels):
        raise ValueError(
            f'scheduler={name} has no alphas_cumprod: it must have a variance-preserving '
            'schedule (DDIM, DDPM, DPM-Solver, UniPC, Euler, ...)'
        )
    if scheduler.config.get('use_flow_sigmas'):
        raise ValueError(
            f'scheduler={name} has use_flow_sigmas=True: flow matching does not preserve the '
            'variance, and networks here are trained with a schedule that does'
        )
    parameters = inspect.signature(scheduler.step).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and 'VAR_' not in p.kind.name]
    if len(needed) > 3:
        raise ValueError(
            f'scheduler={name} has a step that needs {needed}: it must need the prediction, the '
            'timestep and the noisy image only'
        )
    order = scheduler.timesteps  # None, or from the first step of the sampling to the last
    if order is not None and len(order) and order[0] < order[-1]:
        raise ValueError(
            f'scheduler={name} has rising timesteps, from the image to noise: they must fall'
        )
    kind = scheduler.config.prediction_type
    check_prediction_type(kind)
    # a network that is only counted is built without values
    if kind == 'epsilon' and not levels.is_meta and not levels.all():
        raise ValueError(
            f"scheduler={name} has prediction_type='epsilon' and a timestep without signal "
            '(rescale_betas_zero_snr=True), where no image follows from the noise: predict '
            "'v_prediction' or 'sample'"
        )
    if prediction_type not in (None, kind):
        raise ValueError(
            f'scheduler={name} has prediction_type={kind!r}, but the network predicts '
            f'{prediction_type!r}: they must be the same'
        )
    trained_steps = scheduler.config.num_train_timesteps
    if total_steps is not None and trained_steps != total_steps:
        raise ValueError(
            f'scheduler={name} has num_train_timesteps={trained_steps}, but the network has '
            f'total_steps={total_steps}: they must be the same'
        )
