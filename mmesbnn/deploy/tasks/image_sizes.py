"""Sizes of the images that the steps of a manifest give to a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

from ..runtime.images import Size
from ..runtime.manifest import ExportError
from ..runtime.preprocessing import last_change, shrunk
from ..runtime.steps import SIDE, Pad, Preprocessing, Step


def _after(steps: Sequence[Step], size: Size) -> Size:
    return reduce(lambda found, step: step.size_of(found), steps, size)


def padded(steps: Sequence[Step], size: Size) -> Size:
    """Return what the padding at the end of the steps makes of a size."""
    changes = [i for i, step in enumerate(steps, 1) if not isinstance(step, Pad)]
    return _after(steps[max(changes, default=0) :], size)


def _fits(size: Size, limits: Size) -> bool:
    return size[0] <= limits[0] and size[1] <= limits[1]


def _sizes(steps: Sequence[Step], limits: Size) -> Iterator[Size]:
    """Yield what images of the network's size, and very wide and very tall ones, become."""
    last = last_change(steps)
    for size in (limits, (1, SIDE), (SIDE, 1)):
        found = _after(steps, size)
        if last is not None and not _fits(found, limits):  # as the runner does
            found = _after(steps[last + 1 :], shrunk(size, limits))
        yield found


def check_image_size(preprocessing: Preprocessing, limits: Size) -> None:
    """Refuse a network that is too small for every image.

    Args:
        preprocessing: What the runner does with an image.
        limits: Height and width that the network takes.

    Raises:
        ExportError: If the steps make every image larger.
    """
    sizes = list(_sizes(preprocessing.steps, limits))
    if not any(_fits(size, limits) for size in sizes):
        height, width = limits
        raise ExportError(
            f'size={limits} (--shape {height} {width}) is smaller than the images of the test '
            f'pipeline, {sizes[0][0]} x {sizes[0][1]}: the runner would refuse every image'
        )


def padding_remark(preprocessing: Preprocessing, limits: Size) -> tuple[str, ...]:
    """Return a remark if the runner pads images that mmpretrain classifies as they are."""
    height, width = _after(preprocessing.steps, limits)
    if preprocessing.steps and (height < limits[0] or width < limits[1]):
        return (
            f'the test pipeline makes images of {height} x {width}, which the runner pads to '
            f'{limits[0]} x {limits[1]}: scores differ from those of mmpretrain',
        )
    return ()
