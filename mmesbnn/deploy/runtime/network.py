"""Network of an export, run by one of the engines."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ... import native
from ...errors import sentence
from ...whole_files import read_whole
from .engine import Engine
from .manifest import ExportError, read_manifest
from .manifest_schema import NATIVE_FILE, REPORT, Manifest
from .native_engine import NativeEngine
from .openvino_engine import OpenvinoEngine
from .preprocessing import Preprocessor, Seen

Extra = TypeVar('Extra')

#: Names of the engines.
ENGINES = (NativeEngine.NAME, OpenvinoEngine.NAME)


class Network:
    """Network of an export. Any number of threads can use it.

    Args:
        folder: Folder of the export.
        engine: Name of the engine. None chooses native if the export and this installation
            have it, else OpenVINO.
        threads: Number of CPU threads; None is all cores.
        device: OpenVINO's device.
        verify: Whether to check that the network is the exported one.
        max_pixels: Largest number of pixels of an image.

    Attributes:
        manifest: Manifest of the export.
        engine: Engine that runs the network.
        engine_reason: Reason for this engine, a clause without a period.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        engine: str | None,
        threads: int | None,
        device: str,
        verify: bool,
        max_pixels: int,
    ) -> None:
        self.folder, self.device, self.threads = Path(folder), device, threads
        self.max_pixels = max_pixels
        self.manifest: Manifest
        self.engine: Engine
        self.engine_reason: str
        # reads one complete export, even if another one replaces it during the read
        self.manifest, self.engine = read_whole(folder, lambda: self._load(engine, verify))
        self.engine.prepare()  # compiles, which takes longer than the read
        self._preprocessor = Preprocessor(self.manifest, str(self.folder), max_pixels)

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
        return self._named(self.engine.infer(given))

    def infer_many(
        self, batches: Iterable[tuple[np.ndarray | None, Extra]], batch_size: int, jobs: int | None
    ) -> Iterator[tuple[dict[str, np.ndarray], Extra]]:
        """Run the network on batches, several at a time, and yield outputs in order.

        Args:
            batches: Input arrays, each with any object that belongs to it. None instead of
                an array gives no outputs.
            batch_size: Number of images per batch, if the export's batch size is open.
            jobs: Number of batches that run at a time; None is one for each thread.
        """
        for values, extra in self.engine.infer_many(batches, self.batch_size(batch_size), jobs):
            yield self._named(values), extra

    def _load(self, engine: str | None, verify: bool) -> tuple[Manifest, Engine]:
        """Read the manifest and the network."""
        manifest = read_manifest(self.folder, verify)
        name, self.engine_reason = self._choice(engine, manifest)
        if name == NativeEngine.NAME:
            chosen: type[NativeEngine | OpenvinoEngine] = NativeEngine
        else:
            chosen = OpenvinoEngine
        return manifest, chosen(self.folder, manifest, threads=self.threads, device=self.device)

    def _choice(self, engine: str | None, manifest: Manifest) -> tuple[str, str]:
        """Return the name of the engine, and the reason for it.

        Raises:
            ExportError: If the native engine is requested but the export has no form for it.
            ValueError: If it is requested on another device than the CPU.
        """
        form = None
        if NATIVE_FILE not in (manifest.files or {}):
            form = f'has no {NATIVE_FILE}: {manifest.no_native or f"see its {REPORT}"}'
        if engine == NativeEngine.NAME and form is not None:
            raise ExportError(f"{self.folder}: engine='native' cannot run it, because it {form}")
        if engine == NativeEngine.NAME and self.device != 'CPU' and not manifest.maps:
            raise ValueError(
                f"device={self.device!r} must be 'CPU' with engine='native': OpenVINO runs no part "
                'of this network'
            )
        if engine is not None:
            return engine, f'engine={engine!r} was requested'
        if form is not None:
            return OpenvinoEngine.NAME, f'the export {form}'
        if self.device != 'CPU':
            reason = f'device={self.device!r} is not a device of the native library'
            return OpenvinoEngine.NAME, reason
        if not native.available():
            problem = native.problem()
            # Python shows a warning of one line once
            warnings.warn(
                f'the network runs in OpenVINO instead of the native kernels: {problem}',
                stacklevel=2,
            )
            return OpenvinoEngine.NAME, f'the native kernels cannot be used: {problem}'
        part = ' for the backbone; OpenVINO runs neck and heads' if manifest.maps else ''
        return NativeEngine.NAME, f'the export has {NATIVE_FILE}{part}'

    def _named(self, values: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip((port.name for port in self.manifest.outputs), values))


def _as_floats(array: Any, name: str) -> np.ndarray:
    """Return an input as float32."""
    try:
        numbers = np.asarray(array)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor without a numpy array, ...
        raise ValueError(
            f'{name} is a {type(array).__name__} that numpy cannot read: {sentence(error)}'
        ) from error
    if numbers.dtype.kind not in 'fiu':
        raise ValueError(f'{name} has dtype {numbers.dtype}: must be real numbers')
    return np.ascontiguousarray(numbers, np.float32)
