"""Running an export on images: openvino, numpy and PIL, no torch, no OpenMMLab."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import checked, filled_text, function, natural, optional, positive_int
from .images import MAX_PIXELS
from .manifest_schema import Manifest
from .network import Network
from .task import Options, Progress, Source, Task, find_task, uncounted

if TYPE_CHECKING:
    from PIL import Image


class Runner:
    """An exported network that takes images and gives results.

    ::

        runner = Runner('work_dirs/es_bnext_tiny/openvino')
        runner('cat.jpg')['pred_label']
        runner(['cat.jpg', array, Image.open('dog.png')], batch_size=3)
        for result in runner.stream(files): ...  # all cores, several batches at a time

    Images are files, PIL images, or uint8 arrays ``(H, W, 3)`` in **RGB**. Results are
    dicts with the names of mmpretrain (``pred_label``, ``pred_score``, ``pred_scores``,
    ``pred_class``) and mmdet (``bboxes``, ``scores``, ``labels``, ``classes``); of
    super-resolution, arrays ``(H, W, 3)`` of uint8. Any number of threads may share a
    runner.

    Args:
        folder: An export, made by ``tools/export_openvino.py``.
        threads: How many CPU threads to use. Default None: all cores.
        device: OpenVINO's device; binary kernels are the CPU's. Default ``'CPU'``.
        verify: Whether to check that the network is the exported one. False is for
            an IR that you changed yourself. Default True.
        max_pixels: How many pixels an image may have: as its file declares it, resized
            for the network, or upscaled. Larger ones are refused before they take
            memory. Default 2**26, 8192 x 8192.

    Attributes:
        manifest: The export's manifest, a dataclass.
        task: ``'classification'``, ``'detection'`` or ``'super_resolution'``.

    Raises:
        ImportError: If openvino is not installed.
        ExportError: If the folder is not an export, or was changed, or OpenVINO cannot
            load it, or it is not what the manifest describes.
        ValueError: If ``threads`` or ``max_pixels`` is not positive.
    """

    @checked(threads=optional(positive_int), device=filled_text, max_pixels=positive_int)
    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        threads: int | None = None,
        device: str = 'CPU',
        verify: bool = True,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.max_pixels = max_pixels
        self.folder, self.device, self.threads = Path(folder), device, threads
        self._network = Network(
            folder, threads=threads, device=device, verify=verify, max_pixels=max_pixels
        )
        self.manifest: Manifest = self._network.manifest
        self.task: str = self.manifest.task
        self._task: Task = find_task(self.task)(self._network)

    def preprocess(self, source: Source) -> tuple[np.ndarray, tuple[int, int], tuple[float, float]]:
        """What the network sees of an image.

        Args:
            source: The image.

        Returns:
            Array ``(3, H, W)`` of float32, normalised and padded; height and width
            of the image in it, with what steps of the pipeline padded but without
            what was padded after normalising; and these in pixels of the image.

        Raises:
            ImageError: If it is no image, too large, or does not fit into the network's
                input.
            ExportError: If the network takes other images than those of 3 channels.
        """
        seen = self._network.preprocess(source)
        return seen.array, seen.size, seen.original

    def infer(self, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run the network on arrays as it takes them.

        Args:
            *arrays: In the order of the manifest's ``inputs``, of real numbers.

        Returns:
            Arrays by the name of the output.

        Raises:
            ValueError: If a shape or dtype does not fit.
        """
        return self._network.infer(*arrays)

    @checked(batch_size=positive_int)
    def __call__(self, source: Source | Sequence[Source], batch_size: int = 1) -> Any:
        """Results of images.

        Args:
            source: An image, or a list of images.
            batch_size: How many to run together, if the export's batch is dynamic;
                images of one size only. Default 1.

        Returns:
            A result, or a list of results.

        Raises:
            ImageError: If a file is no image.
            ValueError: If ``batch_size`` is not positive.
        """
        if isinstance(source, (list, tuple)):
            return self._task.run(source, batch_size)
        return self._task.run([source], batch_size)[0]

    @checked(batch_size=positive_int, jobs=optional(positive_int))
    def stream(
        self,
        sources: Iterable[Source],
        batch_size: int = 1,
        jobs: int | None = None,
        *,
        return_errors: bool = False,
    ) -> Iterator[Any]:
        """Results of many images, in their order, for the most images per second.

        Several batches run at a time (OpenVINO's throughput mode) while the next images
        are read; never more than needed are in memory.

        Args:
            sources: Images, any iterable.
            batch_size: As in a call. Default 1.
            jobs: How many batches to run at a time. Default None: OpenVINO's choice.
            return_errors: Whether an image that cannot be used gives its
                :class:`ImageError` in place of a result, and the others go on. Default
                False: it is raised.

        Raises:
            ImageError: If a file is no image.
            ValueError: If ``batch_size`` or ``jobs`` is not positive, or the task is
                super-resolution, whose steps wait for each other.
        """
        return self._task.stream(sources, batch_size, jobs, return_errors)

    @checked(steps=optional(positive_int), seed=optional(natural), progress=function)
    def upscale(
        self,
        source: Source,
        *,
        steps: int | None = None,
        seed: int | None = None,
        noise: np.ndarray | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> np.ndarray:
        """Upscale an image by diffusion.

        Of an export with a fixed size, smaller images are padded, and larger ones seen
        in overlapping tiles, whose predictions are blended at every step. An export of
        any size sees results with a side of more than 1024 pixels so.

        Args:
            source: The image.
            steps: Steps of the sampling. Default None: those of the export.
            seed: Seed of the noise. Default None: a random one.
            noise: The noise instead, see :func:`mmesbnn.deploy.runtime.sampling.upscale`.
            progress: Wraps the timesteps, to show how far it is, as ``tqdm`` does.

        Returns:
            Array ``(H scale, W scale, 3)`` of uint8.

        Raises:
            ImageError: If it is no image.
            ValueError: If the export does not upscale, or ``steps`` is out of range.
        """
        return self._task.upscale(source, steps=steps, seed=seed, noise=noise, progress=progress)

    def results(
        self,
        sources: Sequence[Source],
        options: Options = Options(),
        progress: Progress = uncounted,
    ) -> Iterator[Any]:
        """Results of images in their order, whatever the task.

        Args:
            sources: Images.
            options: Settings of the run. Default: those of :class:`Options`.
            progress: Wraps what is counted, with its name and number.

        Yields:
            A result, or the :class:`ImageError` of an image that cannot be used.
        """
        return self._task.results(sources, options, progress)

    def describe(self, result: Any, options: Options = Options()) -> tuple[str, Any]:
        """A result as a line for people, and as JSON has it."""
        return self._task.describe(result, options)

    def draw(self, source: Source, result: Any, options: Options = Options()) -> Image.Image:
        """A result as a picture.

        Args:
            source: The image that the result is of.
            result: The result.
            options: Settings. Default: those of :class:`Options`.

        Raises:
            ImageError: If the image cannot be read.
        """
        return self._task.draw(source, result, options)
