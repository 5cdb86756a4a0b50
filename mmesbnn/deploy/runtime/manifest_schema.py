"""Dataclass of an export's manifest, which checks itself.

:mod:`mmesbnn.deploy.runtime.manifest` describes the entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .schema import (
    Digits,
    Integer,
    Kind,
    ListOf,
    Maybe,
    Nested,
    OneOf,
    Part,
    Record,
    Text,
    Unfit,
    entry,
)
from .steps import CHANNELS, SIDE, Preprocessing
from .task import find_task, task_names

if TYPE_CHECKING:
    from typing_extensions import Self

#: Files of the network; the manifest holds their checksums.
MODEL_FILES = ('model.xml', 'model.bin')
#: The form for the native library, which not every network has.
NATIVE_FILE = 'model.native'
#: Neck and heads of a detector, if the form for the native library is its backbone only.
HEAD_FILES = ('head.xml', 'head.bin')
#: The report for people.
REPORT = 'report.json'

#: Limits far above the needs of all networks here, but within a computer's memory.
_BATCH, _CLASSES, _ELEMENTS, _MAPS = 2**12, 10**5, 2**30, 100

_PORT_NAME: Kind = Text(1000, least=1)
_SHAPE: Kind = ListOf(Integer(-1, 2**31), 1, 8)
_NAME: Kind = Maybe(Text(4096))
#: Names of classes in a manifest.
CLASS_NAMES: Kind = Maybe(ListOf(Text(1000), 0, _CLASSES))


@dataclass(frozen=True, kw_only=True)
class Output(Part):
    """Output of the network.

    Attributes:
        name: Name of the output.
        shape: Sizes of the axes; -1 is any size. Axis 0 is the batch.
    """

    name: str = entry(_PORT_NAME)
    shape: tuple[int, ...] = entry(_SHAPE)

    def check_relations(self) -> None:
        if 0 in self.shape or math.prod(map(abs, self.shape)) > _ELEMENTS:
            rule = f'a shape of 1 to {_ELEMENTS} elements, -1 being any size'
            raise Unfit('shape', list(self.shape), rule)


@dataclass(frozen=True, kw_only=True)
class Input(Output):
    """Input of the network, with its type."""

    dtype: str = entry(OneOf(('float32',)), default='float32')


class _TaskName(Kind):
    """Kind of the name of a task."""

    def check(self, value: Any, where: str) -> None:
        OneOf(task_names()).check(value, where)


class _Decoding(Kind):
    """Kind of settings whose class depends on the task."""

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, Part):
            raise Unfit(where, value, 'the settings of a task')

    def read(self, value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            raise Unfit(where, value, 'a dict')
        return value  # the manifest chooses the class


@dataclass(frozen=True, kw_only=True)
class Manifest(Part):
    """Description of an export's network.

    Attributes:
        task: Name of the task, see :mod:`mmesbnn.deploy.runtime.task`.
        inputs: Inputs in the network's order.
        outputs: Outputs in the network's order.
        preprocessing: Steps from an image to the first input.
        classes: Names in the order of the labels, or None.
        decoding: Settings of the step from the outputs to a result; its class depends on
            the task.
        format: Version of the format.
        versions: Versions of the packages that made the export.
        source: Names of config and checkpoint.
        files: sha256 of the network's files.
        maps: Maps that the native form gives and the head reads, of one image; None if the
            native form is the whole network.
        no_native: Reason why there is no form for the native library, or None.
    """

    CLOSED = False

    task: str = entry(_TaskName())
    inputs: tuple[Input, ...] = entry(ListOf(Nested(Input), 1, 2))
    outputs: tuple[Output, ...] = entry(ListOf(Nested(Output), 1, 3))
    preprocessing: Preprocessing = entry(Nested(Preprocessing))
    classes: tuple[str, ...] | None = entry(CLASS_NAMES)
    decoding: Any = entry(_Decoding())
    format: int = entry(Integer(1, 1), default=1)
    versions: Mapping[str, str | None] = entry(
        Record(optional=dict.fromkeys(('mmesbnn', 'openvino', 'torch'), _NAME), closed=False),
        default_factory=dict,
    )
    source: Mapping[str, str | None] | None = entry(
        Record({'config': _NAME, 'checkpoint': _NAME}), default=None
    )
    files: Mapping[str, str] | None = entry(
        Record(
            dict.fromkeys(MODEL_FILES, Digits(64)),
            dict.fromkeys((NATIVE_FILE, *HEAD_FILES), Digits(64)),
        ),
        default=None,
    )
    maps: tuple[Output, ...] | None = entry(Maybe(ListOf(Nested(Output), 1, _MAPS)), default=None)
    no_native: str | None = entry(Maybe(Text(1000)), default=None)

    @classmethod
    def from_dict(cls, content: Any, where: str = '') -> Self:
        """Read the content of ``manifest.json``.

        Raises:
            Unfit: If an entry is missing, not of its kind, or contradicts another.
        """
        entries = cls.read_entries(content, where)
        task = find_task(entries['task'])
        entries['decoding'] = task.read_decoding(entries['decoding'])
        return cls(**entries)

    def check_relations(self) -> None:
        for where, ports in (('inputs', self.inputs), ('outputs', self.outputs)):
            names = [port.name for port in ports]
            if len(set(names)) < len(names):
                raise Unfit(where, names, 'different names')
        self._check_head()
        find_task(self.task).check(self)

    def _check_head(self) -> None:
        """Check that there is a head exactly if there are maps for it."""
        for i, one in enumerate(self.maps or ()):
            if len(one.shape) != 4 or one.shape[0] != 1 or -1 in one.shape:
                raise Unfit(f'maps[{i}].shape', list(one.shape), '(1, C, H, W)')
        native = set(self.files or ()) - set(MODEL_FILES)
        fits = [{NATIVE_FILE, *HEAD_FILES}] if self.maps else [set(), {NATIVE_FILE}]
        if self.files is not None and native not in fits:
            head = ' and '.join(HEAD_FILES)
            rule = f'with {NATIVE_FILE}, {head}' if self.maps else f'without {head}'
            raise Unfit('files', sorted(self.files), f'{rule}, as maps={self.maps}')

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape ``(N, C, H, W)`` of the input for images; -1 is any size."""
        return self.inputs[0].shape


def check_image(manifest: Manifest, channels: int | None = None) -> None:
    """Check the input for images.

    Args:
        manifest: Manifest to check.
        channels: Number of channels. Default None: any number.
    """
    shape, where = manifest.image_shape, 'inputs[0].shape'
    bounds = (_BATCH, CHANNELS, SIDE, SIDE)
    if len(shape) != 4 or any(side > most for side, most in zip(shape, bounds)):
        raise Unfit(where, list(shape), f'(N, C, H, W) of at most {bounds}')
    if channels and shape[1] != channels:
        raise Unfit(where, list(shape), f'(N, {channels}, H, W)')
    mean = manifest.preprocessing.mean
    # images are RGB; a network with other channels reads arrays
    if channels is None and len(mean) not in (1, 3, shape[1]):
        raise Unfit('preprocessing.mean', list(mean), f'as long as the {shape[1]} channels')


def check_counts(manifest: Manifest, inputs: int, outputs: int) -> None:
    """Check the numbers of inputs and outputs."""
    for where, ports, count in (
        ('inputs', manifest.inputs, inputs),
        ('outputs', manifest.outputs, outputs),
    ):
        if len(ports) != count:
            raise Unfit(where, [port.name for port in ports], f'{count} for {manifest.task}')


def check_classes(classes: Sequence[str] | None, count: int) -> None:
    """Check that each of ``count`` classes has a name; -1 is any number."""
    if classes and count not in (-1, len(classes)):
        raise Unfit('classes', list(classes), f'{count} names, one for each output')


def equal(sizes: Iterable[int]) -> bool:
    """Return True if sizes can be equal; -1 is any size."""
    return len({size for size in sizes if size != -1}) < 2
