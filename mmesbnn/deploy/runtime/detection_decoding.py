"""Settings of the step from a detector's outputs to boxes."""

from __future__ import annotations

from dataclasses import dataclass

from .schema import Flag, Integer, ListOf, Maybe, Number, Part, Unfit, entry
from .steps import SIDE


@dataclass(frozen=True, kw_only=True)
class FinalBoxes(Part):
    """Settings of a network that chooses the boxes itself.

    Attributes:
        final: True.
    """

    final: bool = entry(Flag())

    def check_relations(self) -> None:
        if not self.final:
            raise Unfit('final', self.final, 'true')


@dataclass(frozen=True, kw_only=True)
class DetectionDecoding(Part):
    """Settings of the choice of boxes; the manifest's docstring gives the order of steps.

    Attributes:
        score_thr: Scores up to this value are dropped.
        iou_thr: A box is dropped if its overlap with a better box of its class is larger.
        max_per_image: Largest number of boxes of an image; 0 or -1 keeps all.
        min_size: Boxes with a side up to this number of pixels of the image are dropped;
            -1 drops none.
        levels: Number of boxes of each level, or None.
        nms_pre: Number of (box, class) pairs that each level keeps; None keeps all.
        max_per_class: Number of boxes that each class keeps; None keeps all.
        border: Distance in pixels from the end of the image to which boxes are clipped;
            with None they are not clipped.
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
