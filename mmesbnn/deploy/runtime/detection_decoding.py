"""Settings of the way from a detector's outputs to boxes."""

from __future__ import annotations

from dataclasses import dataclass

from .schema import Flag, Integer, ListOf, Maybe, Number, Part, Unfit, entry
from .steps import SIDE


@dataclass(frozen=True, kw_only=True)
class FinalBoxes(Part):
    """The network itself chooses the boxes.

    Attributes:
        final: True.
    """

    final: bool = entry(Flag())

    def check_relations(self) -> None:
        if not self.final:
            raise Unfit('final', self.final, 'true')


@dataclass(frozen=True, kw_only=True)
class DetectionDecoding(Part):
    """Choice of boxes, class by class; the manifest's docstring gives the order of steps.

    Attributes:
        score_thr: Scores up to it are dropped.
        iou_thr: Overlap with a better box of the class above which a box is dropped.
        max_per_image: Most boxes of an image.
        min_size: Sides up to it, in pixels of the image, are dropped; -1: none.
        levels: How many boxes belong to each level, or None.
        nms_pre: How many pairs of box and class go on from each level; None: all.
        max_per_class: How many boxes of a class go on; None: all.
        border: Distance in pixels from the image's end at which boxes end; None: they
            may end anywhere.
        final: False, see :class:`FinalBoxes`.
    """

    score_thr: float = entry(Number(0, 1))
    iou_thr: float = entry(Number(0, 1))
    max_per_image: int = entry(Integer(-1, 10**6))
    min_size: float = entry(Number(-1, SIDE), default=-1)
    levels: tuple[int, ...] | None = entry(Maybe(ListOf(Integer(1, 2**31), 1, 1000)), default=None)
    nms_pre: int | None = entry(Maybe(Integer(-1, 2**31)), default=None)
    max_per_class: int | None = entry(Maybe(Integer(-1, 10**6)), default=None)
    border: float | None = entry(Maybe(Number(0, SIDE)), default=0)
    final: bool = entry(Flag(), default=False)

    def check_relations(self) -> None:
        if self.final:
            raise Unfit('final', self.final, 'false if there are other settings')
