"""Running an export on images: openvino, numpy and PIL, no torch, no OpenMMLab."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ..checks import check_positive, checked, filled_text, function, natural, optional, positive_int
from ..optional import require
from ..whole_files import read_whole
from . import decoding, images, sampling
from .kernels import warn_of_slow_kernels
from .manifest import ExportError, read_manifest
from .network_check import check_network
from .openvino_core import shared_core
from .request_pool import RequestPool

Source = Any  # a file, an array or a PIL image
#: Height and width of what a network saw of an image, and of the same in the image.
Sizes = tuple[tuple[int, int], tuple[float, float]]
#: Pixels of a side above which an upscaler of any size works in tiles.
_TILE = 1024


def set_batch(network: Any, count: int) -> None:
    """Fix the batch of every input of an ``openvino.Model``."""
    shapes = {}
    for port in network.inputs:
        shape = port.get_partial_shape()
        shape[0] = count
        shapes[port] = shape
    network.reshape(shapes)


def _as_list(source: Source | Sequence[Source]) -> tuple[list[Source], bool]:
    """The images as a list, and whether it was one alone."""
    alone = not isinstance(source, (list, tuple))
    return ([source] if alone else list(source)), alone


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
        manifest: The export's manifest, as a dict.
        task: ``'classification'``, ``'detection'`` or ``'super_resolution'``.

    Raises:
        ImportError: If openvino is not installed.
        ExportError: If the folder is no export, or was changed, or OpenVINO cannot
            load it, or it is not what the manifest describes.
        ValueError: If ``threads`` or ``max_pixels`` is not positive.
    """

    @checked(threads=optional(positive_int), device=filled_text, max_pixels=positive_int)
    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        threads: int | None = None,
        device: str = 'CPU',
        verify: bool = True,
        max_pixels: int = images.MAX_PIXELS,
    ) -> None:
        self.max_pixels = max_pixels
        self.folder, self.device, self.threads = Path(folder), device, threads
        self._openvino = require('openvino', 'deploy', 'Runner')
        # one export, also if another one takes its place meanwhile
        self.manifest, self._network = read_whole(folder, lambda: self._load(verify))
        self.task: str = self.manifest['task']
        self._compiled: dict[tuple[str, int], RequestPool] = {}
        self._compiling = Lock()
        warn_of_slow_kernels(self._pool('LATENCY', self._batch_size(1)).network)

    def _load(self, verify: bool) -> tuple[dict[str, Any], Any]:
        """Read the manifest and the network."""
        manifest, path = read_manifest(self.folder, verify), self.folder / 'model.xml'
        with self._explained():
            network = shared_core().read_model(str(path))
        check_network(network, manifest, path)
        return manifest, network

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Let errors of OpenVINO name the network."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ExportError(
                f'{self.folder / "model.xml"}: OpenVINO {self._openvino.__version__} '
                f'cannot load it on {self.device} ({reason})'
            ) from error

    def _of_batch(self, batch: int) -> Any:
        """The network, for batches of this size: binary kernels must know it."""
        network = self._network.clone()
        if self._shape[0] == -1:
            set_batch(network, batch)
        return network

    def _pool(self, hint: str, batch: int) -> RequestPool:
        """The network, compiled for latency or throughput."""
        with self._compiling:
            if (hint, batch) not in self._compiled:
                self._compiled[hint, batch] = RequestPool(self._compile(hint, batch))
            return self._compiled[hint, batch]

    def _compile(self, hint: str, batch: int) -> Any:
        # 32 bits: processors with matrix units would round to bfloat16 otherwise
        options = {'PERFORMANCE_HINT': hint, 'INFERENCE_PRECISION_HINT': 'f32'}
        if self.threads is not None and self.device == 'CPU':
            options['INFERENCE_NUM_THREADS'] = self.threads
        with self._explained():
            network = self._of_batch(batch)
            return shared_core().compile_model(network, self.device, options)

    # inputs -----------------------------------------------------------------------

    @property
    def _shape(self) -> list[int]:
        """Shape of the image input, -1 where any size will do."""
        return list(self.manifest['inputs'][0]['shape'])

    def _batch_size(self, wanted: int) -> int:
        fixed = self._shape[0]
        return wanted if fixed == -1 else fixed

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
        preprocessing = self.manifest['preprocessing']
        if self._shape[1] != 3:
            raise ExportError(
                f'{self.folder}: takes {self._shape[1]} channels, and images have 3: '
                'give arrays to infer()'
            )
        image = images.read_image(source, self.max_pixels)
        original = image.shape[:2]
        image, scale = self._apply_steps(image, preprocessing['steps'])
        size = image.shape[:2]
        target = self._target(size, preprocessing.get('pad_divisor', 1))
        if any(side > limit for side, limit in zip(size, target)):
            raise images.ImageError(
                f'an image of {original[0]}x{original[1]} becomes {size[0]}x{size[1]}, '
                f'and the network takes {target[0]}x{target[1]}: export it with '
                f'--shape {size[0]} {size[1]}'
            )
        image = images.normalize(image, preprocessing)
        image = images.pad_to(image, target, preprocessing.get('pad_value', 0))
        array = np.ascontiguousarray(image.transpose(2, 0, 1))
        return array, size, (size[0] / scale[0], size[1] / scale[1])

    def _target(self, size: tuple[int, int], divisor: int) -> tuple[int, int]:
        """Height and width of the network's input for images of a size."""
        height, width = (
            -(-side // divisor) * divisor if fixed == -1 else fixed
            for side, fixed in zip(size, self._shape[2:])
        )
        return height, width

    def _apply_steps(
        self, image: np.ndarray, steps: Sequence[dict[str, Any]]
    ) -> tuple[np.ndarray, tuple[float, float]]:
        """The image after preprocessing, and how much larger its pixels became.

        A detector's images keep their shape: of a network for 600x1000 pixels, upright
        ones get less than the pipeline would give them.
        """
        shape, limits = image.shape[:2], self._shape[2:]
        result = images.apply_steps(image, steps, self.max_pixels)
        resizes = [i for i, step in enumerate(steps) if step['type'] != 'pad']
        kept = resizes and steps[resizes[-1]]['type'] == 'resize_within'
        fits = all(a <= b for a, b in zip(result.shape, limits))
        if not kept or -1 in limits or fits:
            return result, images.scale_of(shape, steps)
        scale = min(b / a for a, b in zip(shape, limits))
        size = [max(int(side * scale + 0.5), 1) for side in shape]
        warnings.warn(
            f'an image of {shape[0]}x{shape[1]} should become '
            f'{result.shape[0]}x{result.shape[1]}, and the network takes '
            f'{limits[0]}x{limits[1]}: the runner shrinks it to {size[0]}x{size[1]} '
            'instead',
            stacklevel=2,
        )
        last = resizes[-1]
        smaller = [{**steps[last], 'type': 'resize', 'size': size}, *steps[last + 1 :]]
        result = images.apply_steps(image, smaller, self.max_pixels)
        return result, images.scale_of(shape, smaller)

    def _batches(
        self, sources: Iterable[Source], batch_size: int, return_errors: bool = False
    ) -> Iterator[tuple[np.ndarray | None, list[Sizes | images.ImageError]]]:
        """Input arrays of equal images, and the sizes of the images in them.

        Where an error stands in place of sizes, the array has no image; it is None if
        all are errors.
        """
        count = self._batch_size(batch_size)
        arrays: list[np.ndarray] = []
        told: list[Sizes | images.ImageError] = []
        for source in sources:
            try:
                array, *sizes = self.preprocess(source)
            except images.ImageError as error:
                if not return_errors:
                    raise
                told.append(error)
                continue
            if arrays and array.shape != arrays[0].shape:
                yield self._stacked(arrays, count), told
                arrays, told = [], []
            arrays.append(array)
            told.append((sizes[0], sizes[1]))
            if len(arrays) == count:
                yield self._stacked(arrays, count), told
                arrays, told = [], []
        if told:
            yield self._stacked(arrays, count), told

    def _stacked(self, arrays: list[np.ndarray], count: int) -> np.ndarray | None:
        # the last one again until the batch is full
        return np.stack(arrays + arrays[-1:] * (count - len(arrays))) if arrays else None

    # outputs ----------------------------------------------------------------------

    def _named(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        names = [output['name'] for output in self.manifest['outputs']]
        return dict(zip(names, values))

    def infer(self, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run the network on arrays as it takes them.

        Args:
            *arrays: In the order of the manifest's ``inputs``, of real numbers.

        Returns:
            Arrays by the name of the output.

        Raises:
            ValueError: If a shape or dtype does not fit.
        """
        inputs = self.manifest['inputs']
        if len(arrays) != len(inputs):
            raise ValueError(f'{len(arrays)} arrays for {len(inputs)} inputs')
        given = [_as_floats(x, told['name']) for x, told in zip(arrays, inputs)]
        for array, told in zip(given, inputs):
            fits = len(array.shape) == len(told['shape']) and all(
                side == wanted or (wanted == -1 and side > 0)
                for side, wanted in zip(array.shape, told['shape'])
            )
            if not fits:
                raise ValueError(
                    f'{told["name"]} has shape {list(array.shape)}, the network takes '
                    f'{told["shape"]} (-1: any)'
                )
        if len({len(array) for array in given}) > 1:
            counts = ', '.join(str(len(array)) for array in given)
            raise ValueError(f'arrays have different batches: {counts}')
        return self._named(self._pool('LATENCY', len(given[0])).infer(given))

    def _results(
        self, outputs: dict[str, np.ndarray], told: list[Sizes | images.ImageError]
    ) -> Iterator[Any]:
        settings, classes = self.manifest['decoding'], self.manifest['classes']
        row = 0
        for sizes in told:
            if isinstance(sizes, images.ImageError):
                yield sizes
                continue
            of_image = {name: value[row] for name, value in outputs.items()}
            row += 1
            if self.task == 'classification':
                (logits,) = of_image.values()
                yield decoding.classify(logits, settings, classes)
            else:
                yield decoding.detect(of_image, settings, classes, *sizes)

    # use --------------------------------------------------------------------------

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
        check_positive(batch_size=batch_size)
        sources, alone = _as_list(source)
        batch_size = max(1, min(batch_size, len(sources)))
        if self.task == 'super_resolution':
            results = [self.upscale(one) for one in sources]
        else:
            results = []
            for array, sizes in self._batches(sources, batch_size):
                assert array is not None  # an error was raised
                results += self._results(self.infer(array), sizes)
        return results[0] if alone else results

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
        if self.task == 'super_resolution':
            raise ValueError('stream: super-resolution runs image by image; call it')
        return self._stream(self._batches(sources, batch_size, return_errors), batch_size, jobs)

    def _stream(self, batches: Iterable[tuple], batch_size: int, jobs: int | None) -> Iterator[Any]:
        network = self._pool('THROUGHPUT', self._batch_size(batch_size)).network
        queue = self._openvino.AsyncInferQueue(network, jobs or 0)
        done: dict[int, tuple[dict[str, np.ndarray], list]] = {}

        def keep(request: Any, told: tuple[int, list]) -> None:
            number, sizes = told
            values = [np.array(tensor.data) for tensor in request.output_tensors]
            done[number] = self._named(values), sizes

        queue.set_callback(keep)
        started = finished = 0
        try:
            for array, sizes in batches:
                if array is None:
                    done[started] = {}, sizes
                else:
                    queue.start_async([array], (started, sizes))
                started += 1
                while finished in done:
                    yield from self._results(*done.pop(finished))
                    finished += 1
        finally:
            queue.wait_all()
        for number in range(finished, started):
            yield from self._results(*done.pop(number))

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
            noise: The noise instead, see :func:`mmesbnn.deploy.sampling.upscale`.
            progress: Wraps the timesteps, to show how far it is, as ``tqdm`` does.

        Returns:
            Array ``(H scale, W scale, 3)`` of uint8.

        Raises:
            ImageError: If it is no image.
            ValueError: If the export does not upscale, or ``steps`` is out of range.
        """
        if self.task != 'super_resolution':
            raise ValueError(f'upscale: the export is for {self.task}')
        image = images.read_image(source, self.max_pixels)
        settings = self.manifest['decoding']
        height, width = (side * settings['scale'] for side in image.shape[:2])
        images.check_pixels(height, width, self.max_pixels, 'the upscaled image')
        network, least = self._tiles(height, width)
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

    def _tiles(self, height: int, width: int) -> tuple[sampling.Network, tuple[int, int]]:
        """The network as it sees an image, and the least size that it takes."""
        multiple = self.manifest['decoding']['multiple']
        least = tile = self._shape[2], self._shape[3]
        if -1 in tile:
            if max(height, width) <= _TILE:
                return self._predict, (0, 0)
            least, side = (0, 0), max(_TILE // multiple, 2) * multiple
            padded = (-(-length // multiple) * multiple for length in (height, width))
            tile = tuple(min(side, length) for length in padded)
        # tiles begin at multiples, and each begins after the one before
        overlap = min(64, min(tile) // 4, min(tile) - multiple)
        return sampling.tiled(self._predict, tile, overlap, multiple), least

    def _predict(self, sample: np.ndarray, t: int) -> np.ndarray:
        timestep = np.full(len(sample), t, np.float32)
        (prediction,) = self.infer(sample, timestep).values()
        return prediction


def _as_floats(array: Any, name: str) -> np.ndarray:
    """An input as float32."""
    found = np.asarray(array)
    if found.dtype.kind not in 'fiu':
        raise ValueError(f'{name} has dtype {found.dtype}: must be real numbers')
    return np.ascontiguousarray(found, np.float32)
