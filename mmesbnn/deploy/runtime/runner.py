"""Runner of an export. Needs numpy, PIL and an engine, but no torch and no OpenMMLab."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import (
    checked,
    filled_text,
    function,
    integer,
    natural,
    one_of,
    optional,
    positive_int,
)
from .images import MAX_PIXELS
from .manifest_schema import Manifest
from .network import ENGINES, Network
from .task import Options, Progress, Source, Task, find_task, uncounted

if TYPE_CHECKING:
    from PIL import Image

#: Batches that run at a time. Each has a request of OpenVINO or a thread.
JOBS = integer(1, 1024)


class Runner:
    """Exported network that reads images and returns results.

    ::

        runner = Runner('work_dirs/es_bnext_tiny/openvino')
        runner('cat.jpg')['pred_label']
        runner(['cat.jpg', array, Image.open('dog.png')], batch_size=3)
        for result in runner.stream(files): ...  # all cores, several batches at a time

    Images are files, PIL images, or uint8 arrays ``(H, W, 3)`` in **RGB**. Results are
    dicts with the names of mmpretrain's inferencer (``pred_label``, ``pred_score``,
    ``pred_scores``, ``pred_class``) and mmdet (``bboxes``, ``scores``, ``labels``,
    ``classes``). Where an image can have several labels, ``pred_label`` is the best one, as
    in the inferencer; compare ``pred_scores`` with a threshold for all. Results of
    super-resolution are arrays ``(H, W, 3)`` of uint8. Any number of threads can share a
    runner. A copy, also a pickled one, opens the export again. OpenVINO does not work in forked
    processes: there, a runner that was made before the fork raises an error.

    Args:
        folder: Export made by ``tools/export.py``.
        engine: ``'native'``, the library of :mod:`mmesbnn.native`, or ``'openvino'``. For
            detectors, native means that the library runs the backbone, and OpenVINO neck
            and heads. Default None: native where the export and this installation have it,
            else OpenVINO.
        threads: Number of CPU threads. Default None: all cores.
        device: OpenVINO's device. Only the CPU has binary kernels. Default ``'CPU'``.
        verify: Whether to check that the network is the exported one. Use False for an IR
            that you changed yourself. Default True.
        max_pixels: Largest number of pixels of an image: as its file declares it, after
            resizing and padding for the network, and after upscaling. Larger images raise
            an error before they take memory. Default 2**26, 8192 x 8192.

    Attributes:
        engine: Name of the engine that runs the network.
        engine_reason: Reason for this engine, such as ``'the export has no model.native:
            the network has 2 inputs, and the native library supports one'``.
        manifest: Manifest of the export, a dataclass.
        task: ``'classification'``, ``'detection'`` or ``'super_resolution'``.

    Raises:
        ImportError: If OpenVINO runs the network or a part, and openvino is not installed.
        NativeError: If the engine is to be native, and its library was not compiled.
        ExportError: If the folder is not an export, or was changed, or OpenVINO cannot
            load it, or it is not what the manifest describes.
        ValueError: If ``threads`` or ``max_pixels`` is not positive, or if ``device`` is not
            the CPU where the native engine is requested and OpenVINO runs nothing.
    """

    @checked(
        engine=optional(one_of(*ENGINES)),
        threads=optional(positive_int),
        device=filled_text,
        max_pixels=positive_int,
    )
    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        engine: str | None = None,
        threads: int | None = None,
        device: str = 'CPU',
        verify: bool = True,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.max_pixels = max_pixels
        self.folder, self.device, self.threads = Path(folder), device, threads
        self._network = Network(
            folder,
            engine=engine,
            threads=threads,
            device=device,
            verify=verify,
            max_pixels=max_pixels,
        )
        self.engine: str = self._network.engine.NAME
        self.engine_reason: str = self._network.engine_reason
        self.manifest: Manifest = self._network.manifest
        self.task: str = self.manifest.task
        self._task: Task = find_task(self.task)(self._network)
        own: Any = type(self)
        # where a copy or another process opens the export
        self._open: Callable[[], Runner] = partial(
            own,
            self.folder.absolute(),
            engine=engine,
            threads=threads,
            device=device,
            verify=verify,
            max_pixels=max_pixels,
        )

    def __reduce__(self) -> tuple[Callable[[], Runner], tuple[()]]:
        return self._open, ()

    def preprocess(self, source: Source) -> tuple[np.ndarray, tuple[int, int], tuple[float, float]]:
        """Prepare an image for the network.

        Args:
            source: Image to prepare.

        Returns:
            Three values: the array ``(3, H, W)`` of float32, normalized and padded; height
            and width of the image in the array, with the padding of pipeline steps but
            without the padding after normalizing; and this height and width in pixels of
            the original image.

        Raises:
            ImageError: If ``source`` is not an image, is too large, or is larger than the
                network's input.
            ExportError: If the network does not read images with 3 channels.
        """
        seen = self._network.preprocess(source)
        return seen.array, seen.size, seen.original

    def infer(self, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run the network on prepared arrays.

        Args:
            *arrays: Arrays of real numbers, in the order of the manifest's ``inputs``.

        Returns:
            Arrays by the name of the output.

        Raises:
            ValueError: If a shape or dtype does not match the manifest.
        """
        return self._network.infer(*arrays)

    @checked(batch_size=positive_int)
    def __call__(self, source: Source | Sequence[Source], batch_size: int = 1) -> Any:
        """Run the network on images and return the results.

        Args:
            source: An image, or a list of images.
            batch_size: Number of images per batch, if the export's batch size is open.
                Only images of the same size share a batch. The native engine, and OpenVINO
                for networks with binary layers, run the images of a batch one by one, one
                on each core, because that is faster. Default 1.

        Returns:
            A result, or a list of results.

        Raises:
            ImageError: If a file is not an image.
            ValueError: If ``batch_size`` is not positive.
        """
        if isinstance(source, (list, tuple)):
            return self._task.run(source, batch_size)
        return self._task.run([source], batch_size)[0]

    @checked(batch_size=positive_int, jobs=optional(JOBS))
    def stream(
        self,
        sources: Iterable[Source],
        batch_size: int = 1,
        jobs: int | None = None,
        *,
        return_errors: bool = False,
    ) -> Iterator[Any]:
        """Yield the results of many images, in order, with the highest throughput.

        Several batches run at a time, one on each core, while the next images are read. Only
        the images that are needed at a time are in memory.

        Args:
            sources: Any iterable of images.
            batch_size: As in a call. Default 1.
            jobs: Number of batches that run at a time, 1024 at most. Default None: one for
                each thread.
            return_errors: Whether to yield the :class:`ImageError` of an unusable image
                instead of a result, and to continue with the other images. Default False:
                the error is raised.

        Raises:
            ImageError: If a file is not an image.
            ValueError: If ``batch_size`` is not positive or ``jobs`` is out of range, or if the
                task is super-resolution, which runs image by image.
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

        An export with a fixed size pads smaller images. It processes larger images in
        overlapping tiles, whose predictions are blended at every step. An export with an
        open size uses tiles if a side of the result has more than 1024 pixels.

        Args:
            source: Image to upscale.
            steps: Steps of the sampling. Default None: the steps of the export.
            seed: Seed of the noise. Default None: a random seed.
            noise: Noise to use instead of a seed, see
                :func:`mmesbnn.deploy.runtime.sampling.upscale`. Default None.
            progress: Function that wraps the timesteps to show progress, as ``tqdm``
                does.

        Returns:
            Array ``(H scale, W scale, 3)`` of uint8.

        Raises:
            ImageError: If ``source`` is not an image.
            ValueError: If the export does not upscale, or ``steps`` is out of range.
        """
        return self._task.upscale(source, steps=steps, seed=seed, noise=noise, progress=progress)

    def results(
        self,
        sources: Sequence[Source],
        options: Options = Options(),
        progress: Progress = uncounted,
    ) -> Iterator[Any]:
        """Yield the results of images, in order, for any task.

        Args:
            sources: Images.
            options: Settings of the run. Default: the defaults of :class:`Options`.
            progress: Function that wraps counted items, with their name and number.

        Yields:
            A result, or the :class:`ImageError` of an unusable image.
        """
        return self._task.results(sources, options, progress)

    def describe(self, result: Any, options: Options = Options()) -> tuple[str, Any]:
        """Return a result as a line of text, and as values for JSON, None for NaN and infinity."""
        return self._task.describe(result, options)

    def draw(self, source: Source, result: Any, options: Options = Options()) -> Image.Image:
        """Draw a result.

        Args:
            source: Image of the result.
            result: Result to draw.
            options: Settings. Default: the defaults of :class:`Options`.

        Raises:
            ImageError: If the image cannot be read.
        """
        return self._task.draw(source, result, options)
