"""Small PASCAL VOC devkit of real image content: scanned digits on photographs.

The layout is VOC's own, so every reader of VOC can read it: ``VOC2007`` with the splits
``trainval`` and ``test``, ``VOC2012`` with ``trainval``; ``Annotations/*.xml``,
``ImageSets/Main/<split>.txt``, ``JPEGImages/*.jpg``.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from mmengine.utils import ProgressBar

from ..checks import check, checked, filled_text, integer, natural, number, sequence
from ..optional import require
from ..whole_files import is_filled, whole_folder
from .photographs import load_photograph

VOC_CLASSES = (
    'aeroplane',
    'bicycle',
    'bird',
    'boat',
    'bottle',
    'bus',
    'car',
    'cat',
    'chair',
    'cow',
    'diningtable',
    'dog',
    'horse',
    'motorbike',
    'person',
    'pottedplant',
    'sheep',
    'sofa',
    'train',
    'tvmonitor',
)

#: Photographs that scikit-image and scikit-learn contain. Each split has its own.
PHOTOGRAPHS = {
    'trainval': ('astronaut', 'coffee', 'rocket', 'stereo_motorcycle', 'china'),
    'test': ('chelsea', 'retina', 'flower'),
}
#: Shares of digits that are faint (marked difficult) and cut off (marked truncated).
DIFFICULT_SHARE = TRUNCATED_SHARE = 0.1
#: Opacity of a digit's ink on the photograph, for faint digits and others.
FAINT, STRONG = (0.3, 0.45), (0.8, 1.0)
#: Ink that counts as part of the digit when its box is drawn.
INK_THRESHOLD = 0.3
#: Largest overlap of two objects, as a share of the smaller one.
MAX_OVERLAP = 0.1
JPEG_QUALITY = 92
#: Number of images between two updates of the progress bar.
BAR_STEP = 20


#: Rules of the options, by name.
OPTIONS = dict(
    names=sequence(filled_text, shortest=1, distinct=True),
    size=sequence(integer(32), length=2),
    counts=sequence(natural, length=3),
    objects=sequence(natural, length=2),
    scale=sequence(number(above=0, most=1), length=2),
    seed=natural,
)


@dataclass(frozen=True)
class MiniVOC:
    """Options of a written data set; checked at construction.

    Args:
        names: Names of the classes of the digits 0, 1, ...; one to ten names. Default
            ``'0'`` to ``'9'``.
        size: Width and height of the images in pixels. Default (256, 192).
        counts: Numbers of images of VOC2007 trainval, VOC2012 trainval and VOC2007 test. A
            year or split with 0 images is left out. Default (60, 60, 40).
        objects: Smallest and largest number of objects in an image. Default (1, 3).
        scale: Smallest and largest height of a digit, in units of the image's shorter
            side. Default (0.3, 0.6).
        seed: Seed of all random numbers. Default 0.

    Raises:
        ValueError: If a value is out of range; the message names the value and the rule.
    """

    names: Sequence[str] = tuple('0123456789')
    size: tuple[int, int] = (256, 192)
    counts: tuple[int, int, int] = (60, 60, 40)
    objects: tuple[int, int] = (1, 3)
    scale: tuple[float, float] = (0.3, 0.6)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, rule in OPTIONS.items():
            check(name, getattr(self, name), rule)
        names = list(self.names)
        if not 1 <= len(names) <= 10:
            raise ValueError(f'names={names} must be one to ten different names')
        if not sum(self.counts):
            raise ValueError(f'counts={self.counts} must be three numbers >= 0, not all of them 0')
        low, high = self.objects
        if low > high:
            raise ValueError(f'objects={self.objects} must be 0 <= fewest <= most')
        small, large = self.scale
        if small > large:
            raise ValueError(f'scale={self.scale} must be 0 < smallest <= largest <= 1')


@dataclass
class Thing:
    """Object of an annotation; ``box`` is x1, y1, x2, y2, 1-based and inclusive."""

    name: str
    box: tuple[int, int, int, int]
    difficult: bool
    truncated: bool


@dataclass
class Source:
    """Photographs and scans of a split.

    Args:
        photographs: Arrays ``(H, W, 3)`` uint8.
        digits: Scans of every class, ``(n, 8, 8)`` in 0..1.
        unseen: Scans of every class that were not used yet.
    """

    photographs: list[np.ndarray]
    digits: list[np.ndarray]
    unseen: list[list[int]] = field(default_factory=list)

    def digit(self, label: int, random: np.random.Generator) -> np.ndarray:
        """Return a scan of ``label``; a scan repeats only after all others were used."""
        if not self.unseen:
            self.unseen = [[] for _ in self.digits]
        if not self.unseen[label]:
            self.unseen[label] = random.permutation(len(self.digits[label])).tolist()
        return self.digits[label][self.unseen[label].pop()]


def _sources(classes: int, seed: int) -> dict[str, Source]:
    """Return disjoint photographs and scans for both splits; a third of the scans is for test."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    random = np.random.default_rng(seed)
    digits: dict[str, list[np.ndarray]] = {'trainval': [], 'test': []}
    for label in range(classes):
        images = scans.images[scans.target == label].astype(np.float32) / 16
        images = images[random.permutation(len(images))]
        cut = len(images) // 3
        digits['test'].append(images[:cut])
        digits['trainval'].append(images[cut:])
    return {
        split: Source(
            [load_photograph(name).permute(1, 2, 0).numpy() for name in names], digits[split]
        )
        for split, names in PHOTOGRAPHS.items()
    }


def _background(source: Source, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Return a random part of a photograph, enlarged at most three times."""
    import cv2

    image = source.photographs[random.integers(len(source.photographs))]
    width, height = size
    room = min(image.shape[1] / width, image.shape[0] / height)
    zoom = random.uniform(min(1 / 3, room), room)
    w, h = max(int(width * zoom), 1), max(int(height * zoom), 1)
    left = random.integers(image.shape[1] - w + 1)
    top = random.integers(image.shape[0] - h + 1)
    image = image[top : top + h, left : left + w]
    if random.random() < 0.5:
        image = image[:, ::-1]
    kind = cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=kind).astype(np.float32)


def _ink(scan: np.ndarray, height: int) -> np.ndarray:
    """Enlarge the scan so that its written part has this height; values are in 0..1."""
    import cv2

    rows, columns = (np.flatnonzero((scan > INK_THRESHOLD).any(a)) for a in (1, 0))
    scan = scan[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width = max(round(height * scan.shape[1] / scan.shape[0]), 2)
    enlarged = cv2.resize(scan, (width, height), interpolation=cv2.INTER_CUBIC)
    # increases the contrast, because the enlarged scans have wide grey borders
    return ((enlarged - 0.2) / 0.5).clip(0, 1)


def _place(
    shape: tuple[int, int], size: tuple[int, int], cut: bool, random: np.random.Generator
) -> tuple[int, int]:
    """Return left and top of a digit; with ``cut`` up to a third of it is outside."""
    corner = []
    for length, whole in zip((shape[1], shape[0]), size):
        slack = length // 3 if cut else 0
        corner.append(int(random.integers(-slack, max(whole - length + slack, 0) + 1)))
    return corner[0], corner[1]


def _overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the common area relative to the area of the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return max(width, 0) * max(height, 0) / min(areas)


def _paint(
    image: np.ndarray,
    ink: np.ndarray,
    corner: tuple[int, int],
    strength: float,
    random: np.random.Generator,
) -> None:
    """Paint ink on the image, with a colour that contrasts with the background."""
    left, top = corner
    height, width = image.shape[:2]
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + ink.shape[1], width), min(top + ink.shape[0], height)
    under = image[y1:y2, x1:x2]
    cover = ink[y1 - top : y2 - top, x1 - left : x2 - left, None] * strength
    dark = under.mean() > 127
    colour = random.uniform(0, 70, 3) if dark else random.uniform(185, 255, 3)
    image[y1:y2, x1:x2] = under * (1 - cover) + colour * cover


def _written_box(
    ink: np.ndarray, corner: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the box of the visible ink, 1-based and inclusive as in VOC."""
    rows, columns = (np.flatnonzero((ink > INK_THRESHOLD).any(a)) for a in (1, 0))
    left, top = corner
    return (
        int(max(left + columns[0], 0)) + 1,
        int(max(top + rows[0], 0)) + 1,
        int(min(left + columns[-1], size[0] - 1)) + 1,
        int(min(top + rows[-1], size[1] - 1)) + 1,
    )


def _compose(
    source: Source, options: MiniVOC, random: np.random.Generator
) -> tuple[np.ndarray, list[Thing]]:
    """Compose one image and its objects."""
    size = options.size
    image = _background(source, size, random)
    things: list[Thing] = []
    low, high = options.objects
    for _ in range(random.integers(low, high + 1)):
        label = int(random.integers(len(options.names)))
        height = max(round(min(size) * random.uniform(*options.scale)), 8)
        ink = _ink(source.digit(label, random), height)
        difficult = bool(random.random() < DIFFICULT_SHARE)
        truncated = bool(random.random() < TRUNCATED_SHARE)
        for _ in range(20):  # after 20 trials the object is left out, so objects do not pile up
            corner = _place(ink.shape, size, truncated, random)
            box = _written_box(ink, corner, size)
            if all(_overlap(box, other.box) <= MAX_OVERLAP for other in things):
                strength = random.uniform(*(FAINT if difficult else STRONG))
                _paint(image, ink, corner, strength, random)
                inside = corner[0] >= 0 and corner[1] >= 0
                inside &= corner[0] + ink.shape[1] <= size[0]
                inside &= corner[1] + ink.shape[0] <= size[1]
                things.append(Thing(options.names[label], box, difficult, not inside))
                break
    return image.round().clip(0, 255).astype(np.uint8), things


def _add(parent: ET.Element, **children: Any) -> None:
    for name, value in children.items():
        ET.SubElement(parent, name).text = str(value)


def annotation(
    folder: str, filename: str, size: tuple[int, int], things: Sequence[Thing]
) -> ET.Element:
    """Return the XML of one image, with the elements of VOC's own files.

    Args:
        folder: ``'VOC2007'`` or ``'VOC2012'``.
        filename: Name of the JPEG.
        size: Width and height of the image in pixels.
        things: Objects of the image.
    """
    root = ET.Element('annotation')
    _add(root, folder=folder, filename=filename)
    source = ET.SubElement(root, 'source')
    _add(
        source,
        database='digits on photographs',
        annotation='mmesbnn',
        image='scikit-learn, scikit-image',
    )
    _add(ET.SubElement(root, 'size'), width=size[0], height=size[1], depth=3)
    _add(root, segmented=0)
    for thing in things:
        element = ET.SubElement(root, 'object')
        _add(element, name=thing.name, pose='Unspecified')
        _add(element, truncated=int(thing.truncated), difficult=int(thing.difficult))
        names = ('xmin', 'ymin', 'xmax', 'ymax')
        _add(ET.SubElement(element, 'bndbox'), **dict(zip(names, thing.box)))
    ET.indent(root, '\t')
    return root


def _write_split(
    year: Path,
    split: str,
    names: Sequence[str],
    source: Source,
    options: MiniVOC,
    random: np.random.Generator,
    progress: ProgressBar,
) -> None:
    from PIL import Image

    folders = [year / name for name in ('JPEGImages', 'Annotations', 'ImageSets/Main')]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names, start=1):
        image, things = _compose(source, options, random)
        Image.fromarray(image).save(folders[0] / f'{name}.jpg', quality=JPEG_QUALITY)
        xml = annotation(year.name, f'{name}.jpg', options.size, things)
        ET.ElementTree(xml).write(folders[1] / f'{name}.xml', encoding='utf-8')
        if i % BAR_STEP == 0 or i == len(names):
            progress.update((i - 1) % BAR_STEP + 1)
    (folders[2] / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))


def _write(root: Path, options: MiniVOC) -> None:
    sources = _sources(len(options.names), options.seed)
    train07, train12, test07 = options.counts
    # a process without a terminal may have no output
    progress = ProgressBar(sum(options.counts), file=sys.stdout or io.StringIO())
    numbers = range(1, train07 + test07 + 1)
    names = [f'{number:06d}' for number in numbers]
    plan = (
        ('VOC2007', 'trainval', names[:train07]),
        ('VOC2012', 'trainval', [f'2008_{i + 1:06d}' for i in range(train12)]),
        ('VOC2007', 'test', names[train07:]),
    )
    for i, (year, split, chosen) in enumerate(plan):
        if chosen:
            random = np.random.default_rng((options.seed, i))
            _write_split(root / year, split, chosen, sources[split], options, random, progress)
    print()  # the bar does not end with a new line


@checked()
def write_mini_voc(root: str | os.PathLike[str], **options: Any) -> int:
    """Write a small VOCdevkit; the folder appears complete or not at all.

    Digit ``k`` of scikit-learn's 1,797 scans is an object of class ``names[k]``. Train
    and test images share neither a scan nor a photograph. ``names=VOC_CLASSES[:10]``
    gives digits the names of VOC's first ten classes, so that configs for VOC can use the
    data set without changes. A tenth of the objects is faint and marked ``difficult``.
    About a tenth is cut off by the border and marked ``truncated``.

    Args:
        root: Folder of the devkit, usually ``data/VOCdevkit``. If it holds one, it
            does not change.
        **options: Arguments of :class:`MiniVOC`: ``names``, ``size``, ``counts``,
            ``objects``, ``scale``, ``seed``.

    Returns:
        Number of written images, 0 if they were there.

    Raises:
        ValueError: If an option is out of range.
        OSError: If the folder cannot be written, another process was faster, or it
            holds something else.
        ImportError: If scikit-learn, scikit-image or OpenCV is missing.
    """
    chosen = MiniVOC(**options)
    require('sklearn', 'demo')
    require('skimage', 'demo')
    require('cv2', 'det')
    root = Path(root)
    if is_filled(root, 'VOC2007', 'VOC2012'):
        return 0
    with whole_folder(root) as folder:
        _write(folder, chosen)
    return sum(chosen.counts)
