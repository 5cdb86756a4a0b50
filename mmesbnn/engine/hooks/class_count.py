"""Hook that checks that the head has the classes of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ...errors import shorten
from ..reach import student_and_teacher, unwrapped

#: Places of heads in classifiers and detectors.
HEADS = ('head', 'bbox_head', 'roi_head.bbox_head')


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Hook that compares the head's ``num_classes`` with the classes of a data set.

    The head is a classifier's ``head``, or a detector's ``bbox_head``, also in its
    ``roi_head``. All heads of a cascade are checked, and those of the student and the teacher
    in mmdet's semi-supervised detectors. Without the hook a label without an
    output of the head causes an index error deep in the loss; on a GPU this error names
    nothing. The boxes of data for panoptic segmentation are those of its ``thing_classes``.
    The hook ignores data sets that do not name their classes, and models without such a head.

    Raises:
        ValueError: Before training, validation or test, if the numbers differ.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare with the training data."""
        self._check(runner, 'train_dataloader', runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Compare with the validation data."""
        self._check(runner, 'val_dataloader', runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Compare with the test data."""
        self._check(runner, 'test_dataloader', runner.test_dataloader)

    def _check(self, runner: Runner, name: str, loader: Any) -> None:
        model = unwrapped(runner.model)
        metainfo = getattr(loader.dataset, 'metainfo', {})
        classes = metainfo.get('classes')
        if classes is None or isinstance(classes, str):
            return
        # of panoptic data only things have boxes
        counts = {len(names) for names in (classes, metainfo.get('thing_classes')) if names}
        for where, wanted in _heads(model):
            if wanted not in counts:
                raise ValueError(
                    f'num_classes={wanted} in the {where}, but the data of {name} has '
                    f'{len(classes)} classes: {_named(classes, loader.dataset)}'
                )


def _heads(model: Any) -> Iterator[tuple[str, int]]:
    """Yield the names of a model's heads, and their numbers of classes."""
    owners = ('', 'student.', 'teacher.') if student_and_teacher(model) else ('',)
    for path in (owner + head for owner in owners for head in HEADS):
        heads = model
        for part in path.split('.'):
            heads = getattr(heads, part, None)
        for head in heads if isinstance(heads, nn.ModuleList) else (heads,):
            if _proposes(head):
                continue
            wanted = getattr(head, 'num_classes', None)
            if isinstance(wanted, int):
                yield path, wanted


def _proposes(head: Any) -> bool:
    """Return whether ``head`` finds objects of any class, as that of mmdet's ``RPN`` does."""
    return any(cls.__name__.endswith('RPNHead') for cls in type(head).__mro__)


def _named(classes: Sequence[str], dataset: Any) -> str:
    """Return the names of the classes, and mark those that look like a mistake."""
    names = [str(name) for name in classes]
    text = shorten(', '.join(names), 300)
    doubtful = [name for name in names if name.startswith('.')]
    empty = _empty(names, dataset)
    if doubtful:
        text += f'; hidden folders: {shorten(", ".join(doubtful), 100)}'
    if empty:
        text += f'; without images: {shorten(", ".join(empty), 100)}'
    return text


def _empty(names: Sequence[str], dataset: Any) -> list[str]:
    """Return the classes without images, if the data set knows them without reading."""
    labels = getattr(dataset, 'get_gt_labels', None)  # mmpretrain's
    if labels is None:
        return []
    try:
        there = {int(label) for label in labels()}
    except (KeyError, TypeError, ValueError):  # images have no label, or several
        return []
    return [name for number, name in enumerate(names) if number not in there]
