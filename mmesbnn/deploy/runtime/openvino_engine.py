"""Engine that runs an export in OpenVINO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Batch, Engine, Extra, Results, image_by_image
from .kernels import warn_of_slow_kernels
from .manifest_schema import MODEL_FILES, Manifest
from .network_check import check_network
from .openvino_graph import OpenvinoGraph


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
        path = folder / MODEL_FILES[0]
        self._batch = manifest.image_shape[0]
        self._graph = OpenvinoGraph(path, threads=threads, device=device)
        check_network(self._graph.network, manifest.inputs, manifest.outputs, path)
        # The maps of a batch are larger than the caches, and binary layers gain nothing from a
        # batch. OpenVINO then takes 1.4 to 1.7 times as long for each image.
        self.single_images = self._batch == -1 and device == 'CPU' and self._graph.has_bits

    def prepare(self) -> None:
        warn_of_slow_kernels(self._graph.pool('LATENCY', max(self._batch, 1)).network)

    def infer(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        count, threads = len(arrays[0]), self._graph.cores
        if count == 1 or not self.single_images:
            return self._graph.pool('LATENCY', count).infer(arrays)
        # one image per core, which is faster than all cores on one image
        pool = self._graph.pool('LATENCY' if threads == 1 else 'THROUGHPUT')
        return image_by_image(pool.infer, arrays, threads)

    def infer_many(
        self, batches: Iterable[Batch[Extra]], batch_size: int, jobs: int | None
    ) -> Iterator[Results[Extra]]:
        network = self._graph.pool('THROUGHPUT', 1 if self.single_images else batch_size).network
        queue = self._graph.openvino.AsyncInferQueue(network, jobs or 0)
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
