"""Diffusion super-resolution with any network. Needs numpy only.

The arithmetic is that of :class:`mmesbnn.diffusion.SRDiffusionPipeline` with DDIM.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ...checks import check, integer
from .sampling_settings import Scheduler, SuperResolutionDecoding

#: Number of values that are computed at a time, to limit the memory.
_STRIP = 2**20

#: Function of ``sample``, ``(N, 6, H, W)``, and a timestep that returns the prediction.
Network = Callable[[np.ndarray, int], np.ndarray]


def _cubic(x: np.ndarray) -> np.ndarray:
    """Compute Keys' cubic kernel with parameter -1/2, for ``|x| <= 2``."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, far)


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge an image bicubically, as MATLAB's ``imresize(image, scale)``, unrounded.

    Args:
        image: ``(H, W, C)`` of a floating dtype.
        scale: Magnification.
    """
    if scale == 1:
        return image
    for _ in range(2):  # rows, then columns; after two rounds the axes are in their first order
        length = len(image)
        where = (np.arange(length * scale) + 0.5) / scale - 0.5
        taps = np.floor(where).astype(int) + np.arange(-1, 3)[:, None]
        weights = _cubic(where - taps)
        # outside the image, pixels are mirrored, and the border pixel is repeated
        taps = taps % (2 * length)
        taps = np.where(taps < length, taps, 2 * length - 1 - taps)
        weights = weights.astype(image.dtype)[..., None, None]
        result = np.empty((length * scale, *image.shape[1:]), image.dtype)
        for strip in _strips(len(result), image[0].size):
            pairs = zip(taps[:, strip], weights[:, strip])
            result[strip] = sum(image[row] * w for row, w in pairs)
        image = result.swapaxes(0, 1)
    return image


def _strips(rows: int, width: int) -> Iterator[slice]:
    """Yield parts of ``rows`` rows of ``width`` values."""
    step = max(_STRIP // max(width, 1), 1)
    return (slice(start, start + step) for start in range(0, rows, step))


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Convert ``(H, W, C)`` in [0, 1] to uint8, ``floor(255 x + 1/2)``."""
    result = np.empty(image.shape, np.uint8)
    for strip in _strips(len(image), image[0].size):
        result[strip] = np.floor(image[strip] * 255 + 0.5)
    return result


def pad_reflect(image: np.ndarray, multiple: int, least: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Pad ``(H, W, C)`` to multiples by reflection, below and on the right.

    Args:
        image: Image to pad.
        multiple: Height and width of the result are multiples of this number.
        least: Smallest height and width of the result. Default (0, 0).
    """
    for axis in (0, 1):
        length = image.shape[axis]
        wanted = max(-(-length // multiple) * multiple, least[axis])
        index = np.arange(wanted) % max(2 * length - 2, 1)
        index = np.minimum(index, np.abs(2 * length - 2 - index))
        image = image.take(index, axis)
    return image


def _tiles(length: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """Return the starts of tiles that cover ``length`` with at least this overlap."""
    if length <= tile:
        return [0]
    step = (tile - overlap) // multiple * multiple
    return [*range(0, length - tile, step), length - tile]


def tiled(network: Network, tile: tuple[int, int], overlap: int, multiple: int) -> Network:
    """Return a network for larger images, which runs on tiles and blends predictions.

    The predictions are blended at every step of the sampling, so there is no seam.

    Args:
        network: Network for images of the size of a tile.
        tile: Height and width of a tile.
        overlap: Smallest number of pixels that neighbouring tiles share.
        multiple: Tiles start at multiples of this number.
    """
    ramps = []
    for side in tile:
        distance = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1))
        ramps.append((distance / (overlap + 1)).clip(max=1))
    ramp = np.outer(*ramps).astype(np.float32)

    def predict(sample: np.ndarray, t: int) -> np.ndarray:
        total = np.zeros((len(sample), 3, *sample.shape[2:]), np.float32)
        weight = np.zeros(sample.shape[2:], np.float32)
        rows, columns = (
            _tiles(length, side, overlap, multiple) for length, side in zip(sample.shape[2:], tile)
        )
        for top, left in itertools.product(rows, columns):
            part = (..., slice(top, top + tile[0]), slice(left, left + tile[1]))
            total[part] += ramp * network(np.ascontiguousarray(sample[part]), t)
            weight[part] += ramp
        total /= weight
        return total

    return predict


def timesteps(scheduler: Scheduler, steps: int) -> list[int]:
    """Return the timesteps of DDIM with leading spacing, in descending order."""
    ratio = len(scheduler.alphas_cumprod) // steps
    return [i * ratio + scheduler.steps_offset for i in reversed(range(steps))]


class _Schedule:
    """Steps of DDIM without new noise.

    Args:
        decoding: Settings of the manifest.
        steps: Number of steps.
    """

    def __init__(self, decoding: SuperResolutionDecoding, steps: int) -> None:
        self.scheduler = decoding.scheduler
        self.to_data = decoding.x0_clip == 'data'
        self.timesteps = timesteps(self.scheduler, steps)
        self.stride = len(self.scheduler.alphas_cumprod) // steps

    def _levels(self, t: int) -> tuple[float, float]:
        """Return ``a`` and ``s`` of ``x_t = a x_0 + s e``."""
        s = self.scheduler
        square = s.alphas_cumprod[t] if t >= 0 else s.final_alpha_cumprod
        return square**0.5, (1 - square) ** 0.5

    def step(self, x: np.ndarray, prediction: np.ndarray, t: int) -> np.ndarray:
        """Return the image after one step of removing noise."""
        signal, noise = self._levels(t)
        kind = self.scheduler.prediction_type
        if kind == 'epsilon':
            clean, error = (x - noise * prediction) / signal, prediction
        elif kind == 'sample':
            clean, error = prediction, (x - signal * prediction) / noise
        else:
            clean = signal * x - noise * prediction
            error = signal * prediction + noise * x
        limit = self.scheduler.clip_sample_range
        if self.to_data:
            clean = clean.clip(0, 1)
            error = (x - signal * clean) / noise
        if limit is not None:  # as the pipeline, whose scheduler clips what is clipped already
            clean = clean.clip(-limit, limit)
        signal, noise = self._levels(t - self.stride)
        return signal * clean + noise * error


def upscale(
    image: np.ndarray,
    network: Network,
    decoding: SuperResolutionDecoding,
    *,
    steps: int | None = None,
    seed: int | None = None,
    noise: np.ndarray | None = None,
    least: tuple[int, int] = (0, 0),
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> np.ndarray:
    """Upscale an image by diffusion.

    Args:
        image: ``(H, W, 3)`` of float32 in [0, 1].
        network: Network that predicts.
        decoding: Settings of the manifest.
        steps: Steps of the sampling. Default None: the steps of the manifest.
        seed: Seed of numpy's generator of the noise. Default None: a random seed.
        noise: Noise to use instead of a seed, ``(1, 3, H', W')`` of the padded size.
            Default None.
        least: Smallest height and width that the network takes. Default (0, 0).
        progress: Function that wraps the timesteps to show progress.

    Returns:
        ``(H scale, W scale, 3)`` in [0, 1].

    Raises:
        ValueError: If ``steps`` is not from 1 to the schedule's length, or ``noise``
            has another shape or no real numbers.
    """
    steps = _checked_steps(decoding.scheduler, steps)
    height, width = (side * decoding.scale for side in image.shape[:2])
    condition = enlarge(image, decoding.scale).clip(0, 1)
    condition = pad_reflect(condition, decoding.multiple, least)
    condition = condition.transpose(2, 0, 1)[None]
    if noise is None:
        generator = np.random.default_rng(seed)
        noise = generator.standard_normal(condition.shape, np.float32)
    noise = np.asarray(noise)
    if noise.dtype.kind not in 'fiu':
        raise ValueError(f'noise has dtype {noise.dtype}: must be real numbers')
    if noise.shape != condition.shape:
        raise ValueError(f'noise has shape {noise.shape}, not {condition.shape}')
    sample = np.concatenate([condition, noise], 1, dtype=np.float32)
    del condition, noise  # saves memory for large images: the sample holds both
    x, schedule = sample[:, 3:], _Schedule(decoding, steps)
    for t in progress(schedule.timesteps):
        prediction = network(sample, t)
        for strip in _strips(x.shape[2], x[0, :, 0].size):
            part = (..., strip, slice(None))
            x[part] = schedule.step(x[part], prediction[part], t)
    return x[0].transpose(1, 2, 0)[:height, :width].clip(0, 1)


def _checked_steps(scheduler: Scheduler, steps: int | None) -> int:
    total = len(scheduler.alphas_cumprod)
    steps = scheduler.num_inference_steps if steps is None else steps
    check('steps', steps, integer(1, total))
    last = timesteps(scheduler, steps)[0]
    if last >= total:
        raise ValueError(
            f'steps={steps} begin at timestep {last}, but the schedule ends at '
            f'{total - 1}: use fewer steps'
        )
    return int(steps)
