"""Network of an export, compiled by OpenVINO."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from ...optional import require
from ...whole_files import read_whole
from .core import COMPILE_OPTIONS, shared_core
from .kernels import warn_of_slow_kernels
from .manifest import ExportError, read_manifest
from .manifest_schema import Manifest
from .network_check import check_network
from .preprocessing import Preprocessor, Seen
from .request_pool import RequestPool

Extra = TypeVar('Extra')


def set_batch(network: Any, count: int) -> None:
    """Set the batch size of every input of an ``openvino.Model``."""
    shapes = {}
    for port in network.inputs:
        shape = port.get_partial_shape()
        shape[0] = count
        shapes[port] = shape
    network.reshape(shapes)


class Network:
    """Network of an export. Any number of threads can use it.

    Args:
        folder: Folder of the export.
        threads: Number of CPU threads; None is all cores.
        device: OpenVINO's device.
        verify: Whether to check that the network is the exported one.
        max_pixels: Largest number of pixels of an image.

    Attributes:
        manifest: Manifest of the export.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        threads: int | None,
        device: str,
        verify: bool,
        max_pixels: int,
    ) -> None:
        self.folder, self.device, self.threads = Path(folder), device, threads
        self.max_pixels = max_pixels
        self._openvino = require('openvino', 'deploy', 'Runner')
        self.manifest: Manifest
        # reads one whole export, even if another one replaces it meanwhile
        self.manifest, self._network = read_whole(folder, lambda: self._load(verify))
        self._preprocessor = Preprocessor(self.manifest, str(self.folder), max_pixels)
        self._compiled: dict[tuple[str, int], RequestPool] = {}
        self._compiling = Lock()
        warn_of_slow_kernels(self._pool('LATENCY', self.batch_size(1)).network)

    def preprocess(self, source: Any) -> Seen:
        """Make the input array of an image."""
        return self._preprocessor(source)

    def batch_size(self, chosen: int) -> int:
        """Return the batch size of the export, or the chosen one if it is open."""
        fixed = self.manifest.image_shape[0]
        return chosen if fixed == -1 else fixed

    def infer(self, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run the network on arrays, see :meth:`Runner.infer`."""
        inputs = self.manifest.inputs
        if len(arrays) != len(inputs):
            raise ValueError(f'{len(arrays)} arrays were given for {len(inputs)} inputs')
        given = [_as_floats(x, port.name) for x, port in zip(arrays, inputs)]
        for array, port in zip(given, inputs):
            fits = len(array.shape) == len(port.shape) and all(
                side == size or (size == -1 and side > 0)
                for side, size in zip(array.shape, port.shape)
            )
            if not fits:
                raise ValueError(
                    f'{port.name} has shape {list(array.shape)}, but the network takes '
                    f'{list(port.shape)} (-1: any)'
                )
        if len({len(array) for array in given}) > 1:
            counts = ', '.join(str(len(array)) for array in given)
            raise ValueError(f'arrays have different batches: {counts}')
        return self._named(self._pool('LATENCY', len(given[0])).infer(given))

    def infer_many(
        self, batches: Iterable[tuple[np.ndarray | None, Extra]], batch_size: int, jobs: int | None
    ) -> Iterator[tuple[dict[str, np.ndarray], Extra]]:
        """Run the network on batches, several at a time, and yield outputs in order.

        Args:
            batches: Input arrays, each with any object that belongs to it. None instead of
                an array gives no outputs.
            batch_size: Number of images per batch, if the export's batch size is open.
            jobs: Number of batches that run at a time; None is OpenVINO's choice.
        """
        network = self._pool('THROUGHPUT', self.batch_size(batch_size)).network
        queue = self._openvino.AsyncInferQueue(network, jobs or 0)
        done: dict[int, tuple[dict[str, np.ndarray], Extra]] = {}

        def keep(request: Any, job: tuple[int, Extra]) -> None:
            number, extra = job
            values = [np.array(tensor.data) for tensor in request.output_tensors]
            done[number] = self._named(values), extra

        queue.set_callback(keep)
        started = finished = 0
        try:
            for array, extra in batches:
                if array is None:
                    done[started] = {}, extra
                else:
                    queue.start_async([array], (started, extra))
                started += 1
                while finished in done:
                    yield done.pop(finished)
                    finished += 1
        finally:
            queue.wait_all()
        for number in range(finished, started):
            yield done.pop(number)

    def _load(self, verify: bool) -> tuple[Manifest, Any]:
        """Read the manifest and the network."""
        manifest, path = read_manifest(self.folder, verify), self.folder / 'model.xml'
        with self._explained():
            network = shared_core().read_model(str(path))
        check_network(network, manifest, path)
        return manifest, network

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of OpenVINO into errors that name the network."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ExportError(
                f'{self.folder / "model.xml"}: OpenVINO {self._openvino.__version__} '
                f'cannot load it on {self.device} ({reason})'
            ) from error

    def _pool(self, hint: str, batch: int) -> RequestPool:
        """Return the network, compiled for latency or throughput."""
        with self._compiling:
            if (hint, batch) not in self._compiled:
                self._compiled[hint, batch] = RequestPool(self._compile(hint, batch))
            return self._compiled[hint, batch]

    def _compile(self, hint: str, batch: int) -> Any:
        options: dict[str, Any] = {**COMPILE_OPTIONS, 'PERFORMANCE_HINT': hint}
        if self.threads is not None and self.device == 'CPU':
            options['INFERENCE_NUM_THREADS'] = self.threads
        with self._explained():
            network = self._network.clone()
            if self.manifest.image_shape[0] == -1:
                set_batch(network, batch)  # binary kernels need a known batch size
            return shared_core().compile_model(network, self.device, options)

    def _named(self, values: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip((port.name for port in self.manifest.outputs), values))


def _as_floats(array: Any, name: str) -> np.ndarray:
    """Return an input as float32."""
    numbers = np.asarray(array)
    if numbers.dtype.kind not in 'fiu':
        raise ValueError(f'{name} has dtype {numbers.dtype}: must be real numbers')
    return np.ascontiguousarray(numbers, np.float32)
