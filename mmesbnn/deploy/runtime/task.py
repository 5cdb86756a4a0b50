"""Tasks of exports: one class for each, found by its name.

To add a task to this package, write its class in a file with the task's name here, add the
name to :data:`BUILT_IN`, and write its
:class:`~mmesbnn.deploy.tasks.export_task.ExportTask` in a file with the same name in
``mmesbnn/deploy/tasks``. In another package, decorate the two classes with
:func:`register_task` and ``register_export``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from .manifest_schema import Manifest
    from .network import Network
    from .schema import Part

Source = Any  # a file, an array or a PIL image
#: Function that wraps counted items; its arguments are the items, their name and number.
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


def uncounted(items: Iterable[Any], name: str, total: int) -> Iterable[Any]:
    """Return ``items``; a progress function that shows nothing."""
    return items


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of ``tools/infer.py``; each task uses only its own.

    Attributes:
        batch_size: Number of images per batch.
        score_thr: Smallest score of a box that is shown.
        steps: Steps of diffusion; None is the number of the export.
        seed: Seed of the noise; None is a random seed.
    """

    batch_size: int = 1
    score_thr: float = 0.3
    steps: int | None = None
    seed: int | None = None


class Task(ABC):
    """Base of tasks.

    Args:
        network: Network of the export.
    """

    #: Name of the task in a manifest.
    NAME: ClassVar[str]
    #: Class of the manifest's ``decoding``.
    Decoding: ClassVar[type[Part]]

    def __init__(self, network: Network) -> None:
        self.network = network
        self.manifest: Manifest = network.manifest

    @classmethod
    def read_decoding(cls, content: Mapping[str, Any]) -> Part:
        """Read the manifest's ``decoding``."""
        return cls.Decoding.from_dict(content, 'decoding')

    @classmethod
    @abstractmethod
    def check(cls, manifest: Manifest) -> None:
        """Raise ``Unfit`` if inputs, outputs and decoding contradict each other."""

    @abstractmethod
    def run(self, sources: Sequence[Source], batch_size: int) -> list[Any]:
        """Return the results of images."""

    @abstractmethod
    def results(
        self, sources: Sequence[Source], options: Options, progress: Progress = uncounted
    ) -> Iterator[Any]:
        """Yield the results of images in order; an unusable image gives an ``ImageError``."""

    def stream(
        self, sources: Iterable[Source], batch_size: int, jobs: int | None, return_errors: bool
    ) -> Iterator[Any]:
        """Yield the results of many images, several batches at a time."""
        raise ValueError(f'stream: {self.NAME.replace("_", "-")} runs image by image; call it')

    def upscale(
        self,
        source: Source,
        *,
        steps: int | None = None,
        seed: int | None = None,
        noise: np.ndarray | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> np.ndarray:
        """Upscale an image, see :meth:`mmesbnn.deploy.Runner.upscale`."""
        raise ValueError(f'upscale: the export is for {self.NAME}')

    @abstractmethod
    def describe(self, result: Any, options: Options) -> tuple[str, Any]:
        """Return a result as a line of text, and as values for JSON."""

    @abstractmethod
    def draw(self, source: Source, result: Any, options: Options) -> Image.Image:
        """Draw a result."""


#: Tasks of mmesbnn, each in the module of this folder with its name.
BUILT_IN = ('classification', 'detection', 'super_resolution')
_TASKS: dict[str, type[Task]] = {}

AnyTask = TypeVar('AnyTask', bound=type[Task])


def register_task(task: AnyTask) -> AnyTask:
    """Register a task under its ``NAME``; a decorator.

    Raises:
        ValueError: If another task has the name.
    """
    if _TASKS.get(task.NAME, task) is not task:
        raise ValueError(f'NAME={task.NAME!r} is the name of another task')
    _TASKS[task.NAME] = task
    return task


def task_names() -> tuple[str, ...]:
    """Return the names of all tasks."""
    return (*BUILT_IN, *(name for name in _TASKS if name not in BUILT_IN))


def find_task(name: str) -> type[Task]:
    """Return the class of a task.

    Raises:
        KeyError: If no task has this name.
    """
    if name in BUILT_IN and name not in _TASKS:
        import_module(f'.{name}', __package__)
    return _TASKS[name]
