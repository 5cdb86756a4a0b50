"""Base of tasks whose network runs once per image."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from .images import ImageError
from .preprocessing import Seen
from .task import Options, Progress, Source, Task, uncounted

#: Entry of a batch for each source: the prepared image, or the error that prevents it.
Entries = list['Seen | ImageError']


def as_json(numbers: Any) -> Any:
    """Return a number or an array for JSON, which has no NaN and no infinity: None."""
    array = np.asarray(numbers)
    plain = array.astype(object)
    plain[~np.isfinite(array)] = None
    return plain.tolist()


class ImageTask(Task):
    """Base of tasks whose results follow from the outputs of each image."""

    @abstractmethod
    def decode(self, outputs: Mapping[str, np.ndarray], seen: Seen) -> Any:
        """Return the result of one image.

        Args:
            outputs: Outputs of the network for the image, without the batch axis.
            seen: Image as the network reads it.
        """

    def run(self, sources: Sequence[Source], batch_size: int) -> list[Any]:
        results: list[Any] = []
        for array, entries in self._batches(sources, min(batch_size, max(len(sources), 1))):
            assert array is not None  # an error was raised
            results += self._decoded(self.network.infer(array), entries)
        return results

    def stream(
        self, sources: Iterable[Source], batch_size: int, jobs: int | None, return_errors: bool
    ) -> Iterator[Any]:
        if self.network.engine.single_images:
            batch_size = 1
        count, sources = _counted(sources, self.network.batch_size(batch_size))
        batch_size = max(count, 1)  # the network runs on whole batches
        batches = self._batches(sources, batch_size, return_errors)
        for outputs, entries in self.network.infer_many(batches, batch_size, jobs):
            yield from self._decoded(outputs, entries)

    def results(
        self, sources: Sequence[Source], options: Options, progress: Progress = uncounted
    ) -> Iterator[Any]:
        if len(sources) > 1:
            found = self.stream(sources, options.batch_size, None, True)
            yield from progress(found, 'image', len(sources))
            return
        for source in sources:
            try:
                yield self.run([source], 1)[0]
            except ImageError as error:
                yield error

    def _batches(
        self, sources: Iterable[Source], batch_size: int, return_errors: bool = False
    ) -> Iterator[tuple[np.ndarray | None, Entries]]:
        """Yield arrays of images of one size, and their entries.

        An entry that is an error has no image in the array. If all entries are errors, the
        array is None.
        """
        count = self.network.batch_size(batch_size)
        arrays: list[np.ndarray] = []
        entries: Entries = []
        for source in sources:
            try:
                seen = self.network.preprocess(source)
            except ImageError as error:
                if not return_errors:
                    raise
                entries.append(error)
                continue
            if arrays and seen.array.shape != arrays[0].shape:
                yield _stacked(arrays, count), entries
                arrays, entries = [], []
            arrays.append(seen.array)
            entries.append(seen)
            if len(arrays) == count:
                yield _stacked(arrays, count), entries
                arrays, entries = [], []
        if entries:
            yield _stacked(arrays, count), entries

    def _decoded(self, outputs: Mapping[str, np.ndarray], entries: Entries) -> Iterator[Any]:
        row = 0
        for entry in entries:
            if isinstance(entry, ImageError):
                yield entry
                continue
            yield self.decode({name: value[row] for name, value in outputs.items()}, entry)
            row += 1


def _counted(sources: Iterable[Source], most: int) -> tuple[int, Iterable[Source]]:
    """Return the number of sources, ``most`` if there are more, and all sources."""
    others = iter(sources)
    first = list(islice(others, min(most, sys.maxsize)))
    return len(first), chain(iter(first), others)  # an iterator frees its list at the end


def _stacked(arrays: list[np.ndarray], count: int) -> np.ndarray | None:
    # the last image is repeated until the batch is full
    return np.stack(arrays + arrays[-1:] * (count - len(arrays))) if arrays else None
