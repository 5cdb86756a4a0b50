"""The noise schedule of BI-DiffSR, and clipping a prediction to the data's range.

A noisy image is ``x_t = a x_0 + s e`` with ``a^2 + s^2 = 1`` and Gaussian noise ``e``.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from ..checks import checked, positive_int

#: What a network may predict, as diffusers calls it.
PREDICTION_TYPES = ('epsilon', 'sample', 'v_prediction')


@checked(total_steps=positive_int)
def make_scheduler(total_steps: int = 2000, **kwargs: Any) -> DDIMScheduler:
    """Make the published scheduler: DDIM, ``beta`` rising linearly from 1e-6 to 1e-2.

    The rest is diffusers' default: noise is predicted; 50 steps go through the
    timesteps 1960, 1920 .. 0; the last step gives ``x_0``; ``x_0`` is clipped to
    [-1, 1].

    Args:
        total_steps: Timesteps of the schedule. Default 2000.
        **kwargs: Further or other arguments of ``DDIMScheduler``.

    Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution" (2024).
    """
    options = dict(beta_start=1e-6, beta_end=1e-2, beta_schedule='linear')
    return DDIMScheduler(num_train_timesteps=total_steps, **{**options, **kwargs})


def signal_and_noise(scheduler: Any, timestep: Tensor | float) -> tuple[float, float]:
    """``(a, s)`` at a timestep; between two the ratio ``s / a`` is interpolated.

    Args:
        scheduler: A scheduler with ``alphas_cumprod``, ``a^2`` of every timestep.
        timestep: The timestep.
    """
    signal = scheduler.alphas_cumprod.double().cpu()
    t = min(max(float(timestep), 0.0), len(signal) - 1.0)
    low, high = signal[int(t)], signal[min(int(t) + 1, len(signal) - 1)]
    ratios = [((1 - x) / x).sqrt().item() for x in (low, high)]
    ratio = ratios[0] + (t - int(t)) * (ratios[1] - ratios[0])
    scale = (1 + ratio**2) ** -0.5
    return scale, ratio * scale


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
    """The prediction that would mean ``clamp(x_0, low, high)``.

    With ``x_0`` what ``prediction`` means, ``y = clamp(x_0)`` and ``e = (x - a y) / s``
    the result is ``e``, ``y`` or ``a e - s y``, so that any scheduler goes on from the
    clipped image, and from the noise that belongs to it.

    Args:
        prediction: The network's output.
        x: The noisy image ``a x_0 + s e`` it was given.
        signal: ``a``.
        noise: ``s``, not 0.
        kind: ``'epsilon'``, ``'sample'`` or ``'v_prediction'``: ``e``, ``x_0`` or
            ``a e - s x_0`` is predicted.
        low: Least value of the data. Default 0.
        high: Largest one. Default 1.

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
    """Check that a scheduler fits a network.

    Args:
        scheduler: Any scheduler of diffusers.
        total_steps: Timesteps that the network knows, None if it does not say.
        prediction_type: What it predicts, likewise. Default None.

    Raises:
        ValueError: If it has no variance-preserving schedule, as flow matching, or
            another number of timesteps, or expects another kind of prediction.
    """
    name = type(scheduler).__name__
    if not torch.is_tensor(getattr(scheduler, 'alphas_cumprod', None)):
        raise ValueError(
            f'scheduler={name} has no alphas_cumprod: only those with a variance-'
            'preserving schedule fit (DDIM, DDPM, DPM-Solver, UniPC, Euler, ...)'
        )
    kind = scheduler.config.prediction_type
    check_prediction_type(kind)
    if prediction_type not in (None, kind):
        raise ValueError(
            f'scheduler={name} has prediction_type={kind!r}, the network predicts '
            f'{prediction_type!r}: they must be the same'
        )
    trained_steps = scheduler.config.num_train_timesteps
    if total_steps is not None and trained_steps != total_steps:
        raise ValueError(
            f'scheduler={name} has num_train_timesteps={trained_steps}, the network knows '
            f'total_steps={total_steps}: they must be the same'
        )
