"""Engine that runs an export in the native library, or its backbone."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ... import native
from .engine import Batch, Engine, Extra, Results, image_by_image, usable_cores
from .kernels import warn_of_slow_kernels
from .manifest import ExportError
from .manifest_schema import HEAD_FILES, NATIVE_FILE, Manifest
from .network_check import check_network
from .openvino_graph import OpenvinoGraph
from .program_file import ProgramError, read_program


class NativeEngine(Engine):
    """Engine with the network as a program of the native library.

    For a detector the program is the backbone, and OpenVINO runs neck and heads.

    Args:
        folder: Folder of the export.
        manifest: Manifest of the export, which has a native form.
        threads: Number of threads; None is all cores.
        device: OpenVINO's device, for neck and heads.

    Raises:
        NativeError: If the library is missing.
        ImportError: If there are neck and heads, and openvino is not installed.
        ExportError: If the program, or neck and heads, do not match the manifest.
    """

    NAME = 'native'
    single_images = True

    def __init__(
        self, folder: Path, manifest: Manifest, *, threads: int | None, device: str
    ) -> None:
        path = folder / NATIVE_FILE
        self._threads = threads or usable_cores()
        try:
            program, data = read_program(path)
        except ProgramError as error:
            raise ExportError(str(error)) from error
        self._program = native.Engine(np.array(program.code()), data)
        _check(self._program, manifest, path)
        self._shapes = [one.shape[1:] for one in manifest.maps or manifest.outputs]
        self._head: OpenvinoGraph | None = None
        if manifest.maps:
            path = folder / HEAD_FILES[0]
            self._head = OpenvinoGraph(path, threads=threads, device=device)
            check_network(self._head.network, manifest.maps, manifest.outputs, path)

    def prepare(self) -> None:
        if self._head is not None:
            warn_of_slow_kernels(self._head.pool('LATENCY').network)

    def infer(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        (images,), threads = arrays, self._threads
        # As many images as threads, one thread each, need no waiting at the end of every step.
        # All threads share each of the images that are left.
        side_by_side = len(images) // threads * threads if threads > 1 else 0
        parts = []
        if side_by_side:
            first = [images[:side_by_side]]
            parts.append(image_by_image(lambda one: self._run(one[0], 1), first, threads))
        if side_by_side < len(images):
            parts.append(self._run(images[side_by_side:], threads))
        return [np.concatenate(outputs) for outputs in zip(*parts)]

    def _run(self, images: np.ndarray, threads: int) -> list[np.ndarray]:
        found = self._program.run(images, threads=threads)
        maps = [y.reshape(len(y), *shape) for y, shape in zip(found, self._shapes)]
        if self._head is None:
            return maps
        # a share of the threads: others run other images at the same time
        pool = self._head.pool('LATENCY' if threads == self._threads else 'THROUGHPUT')
        each = [pool.infer([x[i : i + 1] for x in maps]) for i in range(len(images))]
        return [np.concatenate(outputs) for outputs in zip(*each)]

    def infer_many(
        self, batches: Iterable[Batch[Extra]], batch_size: int, jobs: int | None
    ) -> Iterator[Results[Extra]]:
        jobs = jobs or self._threads
        threads = max(1, self._threads // jobs)
        waiting: deque[tuple[Future[list[np.ndarray]] | None, Extra]] = deque()
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for array, extra in batches:
                    future = None if array is None else pool.submit(self._run, array, threads)
                    waiting.append((future, extra))
                    # one batch more than can run, so that no thread waits for the next images
                    while len(waiting) > jobs + 1:
                        yield _result(*waiting.popleft())
                while waiting:
                    yield _result(*waiting.popleft())
            finally:
                for future, _ in waiting:
                    if future is not None:
                        future.cancel()


def _result(future: Future[list[np.ndarray]] | None, extra: Extra) -> Results[Extra]:
    return [] if future is None else future.result(), extra


def _check(program: native.Engine, manifest: Manifest, path: Path) -> None:
    """Compare a program with a manifest.

    Raises:
        ExportError: If inputs or outputs differ.
    """
    image, *others = manifest.inputs
    fits = tuple(image.shape[1:]) == program.input_shape and not others
    described = [math.prod(one.shape[1:]) for one in manifest.maps or manifest.outputs]
    if not fits or described != [math.prod(shape) for shape in program.output_shapes]:
        gives = ', '.join(str(list(shape)) for shape in program.output_shapes)
        raise ExportError(
            f'{path}: takes {list(program.input_shape)} and gives {gives}; its manifest has '
            'other inputs or outputs'
        )
