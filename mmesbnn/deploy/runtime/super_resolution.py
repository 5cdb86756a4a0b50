"""Task of upscaling images by diffusion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from . import sampling
from .images import ImageError, check_pixels, read_image
from .manifest_schema import Manifest, check_counts, check_image, equal
from .sampling_settings import SuperResolutionDecoding
from .schema import Unfit
from .task import Options, Progress, Source, Task, register_task, uncounted

#: Number of pixels of a side above which a network with an open size works in tiles.
_TILE = 1024


@register_task
class SuperResolution(Task):
    """Task that gives larger images, ``(H, W, 3)`` of uint8, in many runs per image."""

    NAME = 'super_resolution'
    Decoding = SuperResolutionDecoding

    @classmethod
    def check(cls, manifest: Manifest) -> None:
        check_counts(manifest, 2, 1)
        check_image(manifest, 6)
        multiple, size = manifest.decoding.multiple, manifest.image_shape[2:]
        timestep, shape = manifest.inputs[1].shape, manifest.outputs[0].shape
        if len(timestep) != 1:
            raise Unfit('inputs[1].shape', list(timestep), '(N,)')
        if len(shape) != 4 or not equal((3, shape[1])):
            raise Unfit('outputs[0].shape', list(shape), '(N, 3, H, W)')
        if any(side != -1 and side % multiple for side in size):
            raise Unfit('inputs[0].shape', list(size), f'multiples of {multiple}')
        if (size[0] == -1) != (size[1] == -1):
            raise Unfit('inputs[0].shape', list(size), 'open in height and width, or in neither')

    def run(self, sources: Sequence[Source], batch_size: int) -> list[Any]:
        return [self.upscale(source) for source in sources]

    def results(
        self, sources: Sequence[Source], options: Options, progress: Progress = uncounted
    ) -> Iterator[Any]:
        def counted(timesteps: Iterable[int]) -> Iterable[int]:
            steps = list(timesteps)
            return progress(steps, 'step', len(steps))

        for source in sources:
            try:
                yield self.upscale(source, steps=options.steps, seed=options.seed, progress=counted)
            except ImageError as error:
                yield error

    def upscale(
        self,
        source: Source,
        *,
        steps: int | None = None,
        seed: int | None = None,
        noise: np.ndarray | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> np.ndarray:
        """Upscale an image, see :meth:`mmesbnn.deploy.Runner.upscale`."""
        image = read_image(source, self.network.max_pixels)
        settings = self.manifest.decoding
        height, width = (side * settings.scale for side in image.shape[:2])
        check_pixels(height, width, self.network.max_pixels, 'the upscaled image')
        network, least = self._tiles(height, width)
        rows, columns = (
            max(-(-side // settings.multiple) * settings.multiple, low)
            for side, low in zip((height, width), least)
        )
        if (rows, columns) != least:  # a large multiple can make a narrow image large
            after = 'the upscaled image after padding'
            check_pixels(rows, columns, self.network.max_pixels, after)
        result = sampling.upscale(
            image.astype(np.float32) / 255,
            network,
            settings,
            steps=steps,
            seed=seed,
            noise=noise,
            least=least,
            progress=progress,
        )
        return sampling.as_bytes(result)

    def describe(self, result: Any, options: Options) -> tuple[str, Any]:
        height, width = result.shape[:2]
        return f'{width}x{height}', {'width': width, 'height': height}

    def draw(self, source: Source, result: Any, options: Options) -> Image.Image:
        return Image.fromarray(result)

    def _tiles(self, height: int, width: int) -> tuple[sampling.Network, tuple[int, int]]:
        """Return the network for an image, tiled if needed, and the smallest size it takes."""
        multiple = self.manifest.decoding.multiple
        least = tile = (self.manifest.image_shape[2], self.manifest.image_shape[3])
        if -1 in tile:
            if max(height, width) <= _TILE:
                return self._predict, (0, 0)
            least, side = (0, 0), max(_TILE // multiple, 2) * multiple
            padded = [-(-length // multiple) * multiple for length in (height, width)]
            tile = min(side, padded[0]), min(side, padded[1])
        # tiles start at multiples, and each starts after the previous one
        overlap = min(64, min(tile) // 4, min(tile) - multiple)
        return sampling.tiled(self._predict, tile, overlap, multiple), least

    def _predict(self, sample: np.ndarray, t: int) -> np.ndarray:
        timestep = np.full(len(sample), t, np.float32)
        (prediction,) = self.network.infer(sample, timestep).values()
        return prediction
