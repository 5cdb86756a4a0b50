"""PASCAL VOC data set that checks its annotations before training."""

from __future__ import annotations

import logging
from collections import Counter
from glob import escape
from pathlib import Path
from typing import Any, cast

from mmdet.datasets import VOCDataset, XMLDataset
from mmengine.logging import print_log

from ..checks import check, checked, sequence, text
from ..errors import shorten
from ..images.files import image_file_size
from .voc_annotation import AnnotationError, check_annotation

CLASSES = sequence(text, shortest=1, distinct=True)


class CheckedVOCDataset(XMLDataset):
    """mmdet's ``VOCDataset`` with errors that name the faults of its files.

    These are errors: an annotation that is missing, is not a VOC annotation, has a size of
    0 or has wrong numbers; an image that is missing or cannot be read; a box whose ends are
    swapped; a data set without any object of a class in ``metainfo``. One warning counts
    the objects that are left out: objects of other classes, and in training also boxes
    outside their image and boxes of one pixel. Boxes that are partly outside are clipped.
    The size of an image is that of its file. Another warning counts the annotations that
    have another size, for example because width and height are swapped.
    Boxes of one pixel are ignored, like difficult objects, because their width of 0 has no
    logarithm.

    Classes are VOC's, or those of ``metainfo=dict(classes=...)``. In the second case
    ``VOCMetric`` prints these classes for any name of the folder.

    Args:
        use_difficult: Whether difficult objects train like others. If not, they are
            ignored. In tests they are always ignored. Boxes that are smaller than
            ``bbox_min_size`` of ``filter_cfg`` stay ignored. Default False.
        **kwargs: As ``XMLDataset``'s.

    Raises:
        ValueError: If the classes are not a list of different names, if an annotation, an
            image or a list in a file cannot be used, or if there is no object.
    """

    METAINFO = VOCDataset.METAINFO

    @checked()
    def __init__(self, use_difficult: bool = False, **kwargs: Any) -> None:
        self.use_difficult = use_difficult
        super().__init__(**kwargs)
        year = None
        if tuple(self._metainfo['classes']) == VOCDataset.METAINFO['classes']:
            years = (y for y in ('VOC2007', 'VOC2012') if y in self.sub_data_root)
            year = next(years, None)
        self._metainfo['dataset_type'] = year
        colours = self.METAINFO['palette']
        if self._metainfo['palette'] == colours and len(self._metainfo['classes']) > len(colours):
            del self._metainfo['palette']  # mmdet then draws in colours of its own

    @classmethod
    def _load_metainfo(cls, metainfo: Any = None) -> dict[str, Any]:
        """Return the meta data; a text in ``metainfo`` can be the name of a file."""
        try:
            return cast('dict[str, Any]', super()._load_metainfo(metainfo))
        except UnicodeError as error:
            given = shorten(repr(metainfo), 100)
            raise ValueError(f'metainfo={given}: its files must be text in UTF-8') from error

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read all annotations, and report their faults."""
        check("metainfo['classes']", self._metainfo['classes'], CLASSES)
        self._foreign: Counter[str] = Counter()
        self._odd: Counter[str] = Counter()
        self._wrong_sizes = 0
        try:
            images = super().load_data_list()
        except UnicodeError as error:  # of the list; errors of annotations are others
            raise ValueError(f'ann_file={self.ann_file!r} must be text in UTF-8') from error
        if not any(image['instances'] for image in images):
            raise ValueError(
                f'{self.ann_file}: none of its {len(images)} images has an object of '
                f'the classes {tuple(self._metainfo["classes"])}; they have '
                f'{dict(self._foreign + self._odd) or "none at all"}'
            )
        notes = [f'{n} objects of class {name!r}' for name, n in self._foreign.items()]
        notes += [f'{n} {what}' for what, n in self._odd.items()]
        if notes:
            self._warn(f'leaves out {", ".join(notes)}')
        if self._wrong_sizes:
            self._warn(
                f'{self._wrong_sizes} annotations have another size than their image: check boxes'
            )
        return images

    def _warn(self, what: str) -> None:
        print_log(f'{self.ann_file}: {what}', 'current', logging.WARNING)

    def parse_data_info(self, img_info: dict[str, Any]) -> dict[str, Any]:
        """Read the annotation of one image."""
        path = img_info['xml_path']
        on_this_machine = self.backend_args is None
        size = self._checked_size(img_info) if on_this_machine else None
        try:
            image = super().parse_data_info(img_info)
        except (SyntaxError, AttributeError, TypeError, ValueError) as error:
            raise AnnotationError(f'{path}: no VOC annotation ({error})') from error
        if size is not None and size != (image['height'], image['width']):
            image['height'], image['width'] = size
            self._wrong_sizes += 1
        for instance in image['instances']:
            x1, y1, x2, y2 = instance['bbox']
            if x2 < x1 or y2 < y1:
                raise ValueError(
                    f'{path}: the box {[x + 1 for x in instance["bbox"]]} must have '
                    'xmin <= xmax and ymin <= ymax'
                )
        if not self.test_mode:
            image['instances'] = self._trainable(image)
        return image

    def _checked_size(self, img_info: dict[str, Any]) -> tuple[int, int]:
        """Check an image's files before mmdet reads them; return its height and width."""
        image = Path(self.sub_data_root, img_info['file_name'])
        try:
            check_annotation(img_info['xml_path'])
            if not image.exists():
                raise FileNotFoundError(2, '', str(image))
        except FileNotFoundError as error:
            raise ValueError(
                # as a literal, because blanks and byte order marks cannot be seen
                f'{error.filename}: no such file, but {self.ann_file} lists '
                f'{img_info["img_id"]!a}{_others(image)}'
            ) from error
        return image_file_size(image)

    def _parse_instance_info(
        self, raw_ann_info: Any, minus_one: bool = True
    ) -> list[dict[str, Any]]:
        """Return the objects of one image, and count those of other classes."""
        instances = super()._parse_instance_info(raw_ann_info, minus_one)
        names = [thing.findtext('name') for thing in raw_ann_info.findall('object')]
        self._foreign.update(n for n in names if n not in self._metainfo['classes'])
        return instances

    def _trainable(self, image: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the objects with boxes inside the image; too small boxes are set to ignored."""
        kept = []
        right, bottom = image['width'] - 1, image['height'] - 1
        for instance in image['instances']:
            x1, y1, x2, y2 = instance['bbox']
            if x1 > right or y1 > bottom or x2 < 0 or y2 < 0:
                self._odd['boxes outside of their image'] += 1
                continue
            box = [max(x1, 0), max(y1, 0), min(x2, right), min(y2, bottom)]
            trains = self.use_difficult and not self._is_small(instance)
            ignored = instance['ignore_flag'] and not trains
            if box[0] == box[2] or box[1] == box[3]:
                self._odd['boxes of one pixel'] += 1
                ignored = True
            kept.append(dict(instance, bbox=box, ignore_flag=int(ignored)))
        return kept

    def _is_small(self, instance: dict[str, Any]) -> bool:
        """Return True if ``filter_cfg`` says that the box is too small; mmdet ignores it then."""
        x1, y1, x2, y2 = instance['bbox']
        least = self.bbox_min_size
        return least is not None and min(x2 - x1, y2 - y1) < least


def _others(image: Path) -> str:
    """Return a note about a file of another format, which mmdet would not read."""
    if image.exists():
        return ''
    others = sorted(path.name for path in image.parent.glob(f'{escape(image.stem)}.*'))
    return f' (there is {others[0]}; convert it to {image.suffix})' if others else ''
