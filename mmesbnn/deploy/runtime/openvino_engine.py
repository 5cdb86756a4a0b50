"""Engine that runs an export in OpenVINO."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ...optional import require
from .core import COMPILE_OPTIONS, shared_core
from .engine import Batch, Engine, Extra, Results, image_by_image, usable_cores
from .kernels import lost_operator, warn_of_slow_kernels
from .manifest import ExportError
from .manifest_schema import Manifest
from .network_check import check_network
from .request_pool import RequestPool


def set_batch(network: Any, count: int) -> None:
    """Set the batch size of every input of an ``openvino.Model``."""
    shapes = {}
    for port in network.inputs:
        shape = port.get_partial_shape()
        shape[0] = count
        shapes[port] = shape
    network.reshape(shapes)


class OpenvinoEngine(Engine):
    """Engine with the network as OpenVINO's graph.

    Args:
        folder: Folder of the export.
        manifest: Manifest of the export.
        threads: Number of CPU threads; None is all cores.
        device: OpenVINO's device.
    """

    NAME = 'openvino'

    def __init__(
        self, folder: Path, manifest: Manifest, *, threads: int | None, device: str
    ) -> None:
        self.manifest, self.threads, self.device = manifest, threads, device
        self._path = folder / 'model.xml'
        self._openvino = require('openvino', 'deploy', 'Runner')
        with self._explained():
            self._network = shared_core().read_model(str(self._path))
        check_network(self._network, manifest, self._path)
        # The maps of a batch are larger than the caches, and binary layers gain nothing from a
        # batch. OpenVINO then takes 1.4 to 1.7 times as long for each image.
        kinds = {node.get_type_name() for node in self._network.get_ops()}
        open_batch = manifest.image_shape[0] == -1
        self.single_images = open_batch and device == 'CPU' and 'BinaryConvolution' in kinds
        self._compiled: dict[tuple[str, int], RequestPool] = {}
        self._compiling = Lock()

    def prepare(self) -> None:
        batch_size = max(self.manifest.image_shape[0], 1)
        warn_of_slow_kernels(self._pool('LATENCY', batch_size).network)

    def infer(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        count, threads = len(arrays[0]), self._cores
        if count == 1 or not self.single_images:
            return self._pool('LATENCY', count).infer(arrays)
        # one image per core, which is faster than all cores on one image
        pool = self._pool('LATENCY' if threads == 1 else 'THROUGHPUT', 1)
        return image_by_image(pool.infer, arrays, threads)

    def infer_many(
        self, batches: Iterable[Batch[Extra]], batch_size: int, jobs: int | None
    ) -> Iterator[Results[Extra]]:
        network = self._pool('THROUGHPUT', 1 if self.single_images else batch_size).network
        queue = self._openvino.AsyncInferQueue(network, jobs or 0)
        done: dict[int, Results[Extra]] = {}

        def keep(request: Any, job: tuple[int, Extra]) -> None:
            number, extra = job
            done[number] = [np.array(tensor.data) for tensor in request.output_tensors], extra

        queue.set_callback(keep)
        started = finished = 0
        try:
            for array, extra in batches:
                if array is None:
                    done[started] = [], extra
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

    @property
    def _cores(self) -> int:
        return self.threads or usable_cores()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of OpenVINO into errors that name the network."""
        try:
            yield
        except RuntimeError as error:
            if 'BinaryConvolution' in str(error):
                message = lost_operator(self._openvino.__version__)
                raise ExportError(f'{self._path}: {message}') from error
            reason = str(error).strip().splitlines()[-1]
            raise ExportError(
                f'{self._path}: OpenVINO {self._openvino.__version__} '
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
        if hint == 'THROUGHPUT' and self.device == 'CPU':
            options['NUM_STREAMS'] = self._cores
        with self._explained():
            network = self._network.clone()
            if self.manifest.image_shape[0] == -1:
                set_batch(network, batch)  # binary kernels need a known batch size
            return shared_core().compile_model(network, self.device, options)
