"""Base of the classes that export networks: one class per task, found by its name.

A class stands in the file that has the name of the task; one of another package is
decorated by :func:`register_export`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mmengine.config import Config
from torch import Tensor, nn

from ..runtime.schema import Part
from ..runtime.steps import Preprocessing
from ..runtime.task import BUILT_IN, Task, task_names

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class ExportTask(ABC):
    """A network as it is exported.

    Attributes:
        graph: From the inputs to the outputs.
        input_names: Names of the inputs.
        output_names: Names of the outputs.
        preprocessing: Steps from an image to the first input, for the manifest.
        classes: Names of the classes, for the manifest, or None.
        decoding: Steps from the outputs to a result, for the manifest.
        images: Images on which to try the export, ``(N, C, H, W)``, normalised.
        source: Name for these images.
        remarks: Sentences for the export's report.
        parts: Backbone of a detector, and its neck and heads, which read the backbone's maps:
            the native library runs the first, OpenVINO the second. None: the native library
            runs the whole network or nothing.
    """

    #: The class that runs such an export.
    RUNNER: ClassVar[type[Task]]

    graph: nn.Module
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    decoding: Part
    images: Tensor
    source: str
    remarks: tuple[str, ...] = ()
    parts: tuple[nn.Module, nn.Module] | None = None

    @classmethod
    @abstractmethod
    def accepts(cls, cfg: Config, model: nn.Module) -> bool:
        """Return whether ``model``, built from ``cfg``, is a network of this task."""

    @classmethod
    @abstractmethod
    def make(
        cls,
        cfg: Config,
        model: Any,
        *,
        size: Sequence[int] | None,
        count: int,
        dataset_meta: Mapping[str, Any] | None,
    ) -> Self:
        """Describe how ``model`` is exported, see :func:`~mmesbnn.deploy.make_task`."""

    def example(self, i: int) -> tuple[Tensor, ...]:
        """Return the inputs made of image ``i``."""
        return (self.images[i : i + 1],)


_EXPORTS: dict[str, type[ExportTask]] = {}

AnyExport = TypeVar('AnyExport', bound=type[ExportTask])


def register_export(export: AnyExport) -> AnyExport:
    """Make known how the networks of the task ``export.RUNNER`` are exported; a decorator.

    Raises:
        ValueError: If another class exports them.
    """
    name = export.RUNNER.NAME
    if _EXPORTS.get(name, export) is not export:
        raise ValueError(f'RUNNER={name!r} is the task of another export')
    _EXPORTS[name] = export
    return export


def find_export(name: str) -> type[ExportTask] | None:
    """Return the class that exports networks of a task, None if they are run only."""
    if name in BUILT_IN and name not in _EXPORTS:
        import_module(f'.{name}', __package__)
    return _EXPORTS.get(name)


def all_exports() -> tuple[type[ExportTask], ...]:
    """Return the classes of all tasks, those registered last first."""
    found = (find_export(name) for name in reversed(task_names()))
    return tuple(export for export in found if export is not None)
