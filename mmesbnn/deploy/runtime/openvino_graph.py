"""Graphs of OpenVINO in an export's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from ...optional import require
from ...plain_files import open_plain
from .core import COMPILE_OPTIONS, shared_core
from .engine import usable_cores
from .kernels import lost_operator
from .manifest import ExportError
from .request_pool import RequestPool


def set_batch(network: Any, count: int) -> None:
    """Set the batch size of every input of an ``openvino.Model``."""
    shapes = {}
    for port in network.inputs:
        shape = port.get_partial_shape()
        shape[0] = count
        shapes[port] = shape
    network.reshape(shapes)


def _check_format(path: Path) -> None:
    """Check that a file begins as OpenVINO's own format.

    OpenVINO finds the reader of a file by its content. Its readers of ONNX and TensorFlow
    would open further files, which no checksum of a manifest covers.

    Raises:
        ExportError: If it begins otherwise, or cannot be read.
    """
    try:
        with open_plain(path) as file:
            start = file.read(1024)
    except OSError as error:
        raise ExportError(f'{path}: cannot be read ({error.strerror})') from error
    if not start.removeprefix(b'\xef\xbb\xbf').lstrip().startswith((b'<?xml', b'<net')):
        raise ExportError(f'{path}: not a network of OpenVINO, which begins with <?xml or <net')


class OpenvinoGraph:
    """Graph that is compiled at its first use. Any number of threads can use it.

    Args:
        path: File of the graph.
        threads: Number of CPU threads; None is all cores.
        device: OpenVINO's device.

    Attributes:
        network: The graph, an ``openvino.Model``.
        openvino: The module ``openvino``.

    Raises:
        ImportError: If openvino is not installed.
        ExportError: If the file is in another format, or OpenVINO cannot read it.
    """

    def __init__(self, path: Path, *, threads: int | None, device: str) -> None:
        self._path, self._threads, self._device = path, threads, device
        self.openvino = require('openvino', 'deploy', 'Runner')
        _check_format(path)
        with self._explained():
            self.network = shared_core().read_model(str(path))
        self._compiled: dict[tuple[str, int], RequestPool] = {}
        self._compiling = Lock()

    @property
    def cores(self) -> int:
        """Number of threads that it uses."""
        return self._threads or usable_cores()

    @property
    def has_bits(self) -> bool:
        """True if it has binary convolutions."""
        return any(node.get_type_name() == 'BinaryConvolution' for node in self.network.get_ops())

    def pool(self, hint: str, batch: int = 1) -> RequestPool:
        """Return the compiled graph.

        Args:
            hint: ``'LATENCY'``, all threads on one batch, or ``'THROUGHPUT'``, one thread
                on each of several batches.
            batch: Batch size, if the graph's is open. Default 1.

        Raises:
            ExportError: If OpenVINO cannot compile it, or as :func:`shared_core`.
        """
        core = shared_core()
        with self._compiling:
            if (hint, batch) not in self._compiled:
                self._compiled[hint, batch] = RequestPool(self._compile(core, hint, batch))
            return self._compiled[hint, batch]

    def _compile(self, core: Any, hint: str, batch: int) -> Any:
        options: dict[str, Any] = {**COMPILE_OPTIONS, 'PERFORMANCE_HINT': hint}
        if self._threads is not None and self._device == 'CPU':
            options['INFERENCE_NUM_THREADS'] = self._threads
        if hint == 'THROUGHPUT' and self._device == 'CPU':
            options['NUM_STREAMS'] = self.cores
        with self._explained():
            network = self.network.clone()
            if network.inputs[0].get_partial_shape()[0].is_dynamic:
                set_batch(network, batch)  # binary kernels need a known batch size
            return core.compile_model(network, self._device, options)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of OpenVINO into errors that name the graph."""
        try:
            yield
        except RuntimeError as error:
            if 'BinaryConvolution' in str(error):
                message = lost_operator(self.openvino.__version__)
                raise ExportError(f'{self._path}: {message}') from error
            reason = str(error).strip().splitlines()[-1]
            raise ExportError(
                f'{self._path}: OpenVINO {self.openvino.__version__} '
                f'cannot load it on {self._device} ({reason})'
            ) from error
