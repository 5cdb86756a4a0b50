"""Base class of the engines that run the network of an export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, TypeVar

import numpy as np

Extra = TypeVar('Extra')
#: An input array with an object that belongs to it; None instead of an array gives no outputs.
Batch = tuple['np.ndarray | None', Extra]
#: Outputs in the order of the manifest, with the object of their batch.
Results = tuple[list[np.ndarray], Extra]


class Engine(ABC):
    """Base class of a network that any number of threads can run."""

    #: Name of the engine for :class:`mmesbnn.deploy.Runner`.
    NAME: ClassVar[str]

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
            jobs: Number of batches that run at a time; None is the engine's choice.
        """
