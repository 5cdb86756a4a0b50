"""Base class of the engines that run the network of an export."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, TypeVar

import numpy as np

Extra = TypeVar('Extra')
#: An input array with an object that belongs to it; None instead of an array gives no outputs.
Batch = tuple['np.ndarray | None', Extra]
#: Outputs in the order of the manifest, with the object of their batch.
Results = tuple[list[np.ndarray], Extra]


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def image_by_image(
    run: Callable[[list[np.ndarray]], list[np.ndarray]], arrays: Sequence[np.ndarray], at_once: int
) -> list[np.ndarray]:
    """Run a network on the images of a batch, several at a time, and join the outputs.

    Args:
        run: Function of arrays of one image.
        arrays: Inputs of the batch.
        at_once: Number of images that run at a time.
    """
    images = [[x[i : i + 1] for x in arrays] for i in range(len(arrays[0]))]
    with ThreadPoolExecutor(at_once) as pool:
        return [np.concatenate(outputs) for outputs in zip(*pool.map(run, images))]


class Engine(ABC):
    """Base class of a network that any number of threads can run."""

    #: Name of the engine for :class:`mmesbnn.deploy.Runner`.
    NAME: ClassVar[str]
    #: Whether it runs a batch image by image, so that a stream need not collect batches.
    single_images: bool = False

    def prepare(self) -> None:  # noqa: B027  (not every engine has to)
        """Do what the first image would wait for. It reads no file of the export."""

    @abstractmethod
    def infer(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the network on arrays of the manifest's shapes, float32.

        Args:
            arrays: Inputs in the order of the manifest.
        """

    @abstractmethod
    def infer_many(
        self, batches: Iterable[Batch[Extra]], batch_size: int, jobs: int | None
    ) -> Iterator[Results[Extra]]:
        """Run the network on batches, several at a time, and yield results in order.

        Args:
            batches: Input arrays.
            batch_size: Number of images per batch.
            jobs: Number of batches that run at a time; None is one for each thread.
        """
