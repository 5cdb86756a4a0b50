"""Data set of high- and low-resolution images in the layout of DF2K and the benchmarks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.registry import DATASETS
from torch import Tensor
from torch.utils.data import Dataset

from ..checks import Rule, checked, either, optional, path, positive_int, sequence, text
from ..images.bicubic import resize
from ..images.tensors import image_files, image_size, read_rgb

#: Number of low-resolution pixels around a crop that affect its downsampled pixels.
_MARGIN = 3

#: Top, left, height and width in an image, in pixels.
Window = tuple[int, int, int, int]


class Pair(NamedTuple):
    """Files and sizes of one image.

    Attributes:
        hr: High-resolution file.
        lr: Low-resolution file; None means that it is made from ``hr``.
        size: Height and width of the low-resolution image.
        set_name: Name of the image set.
    """

    hr: Path
    lr: Path | None
    size: tuple[int, int]
    set_name: str


def _folders(name: str, value: Any, root: str) -> list[Path]:
    values = [value] if isinstance(value, (str, os.PathLike)) else list(value)
    folders = [Path(root, v) for v in values]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f'{name}={folder} is not a folder')
    return folders


def _by_stem(name: str, folder: Path) -> dict[str, Path]:
    """Return the images of a folder by their names without ending, which must differ."""
    found: dict[str, Path] = {}
    for file in image_files(folder):
        other = found.setdefault(file.stem, file)
        if other is not file:
            raise ValueError(
                f'{name}={folder} has two images called {file.stem}: {other.name} and {file.name}'
            )
    return found


def _template(hr: Path, lr: Path, stems: dict[str, Path], names: Any, scale: int) -> str:
    """Return the template of the names of a folder's low-resolution images."""
    usual = (f'{{}}x{scale}', '{}')  # names in DIV2K, and in the benchmarks
    missing = {
        tmpl: [stem for stem in stems if tmpl.replace('{}', stem) not in names] for tmpl in usual
    }
    fitting = [tmpl for tmpl in usual if not missing[tmpl]]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(
            f'lr={lr} has images called both {" and ".join(usual)} for those of '
            f'hr={hr}: choose by filename_tmpl'
        )
    neither = [stem for stem in missing[usual[0]] if stem in missing[usual[1]]]
    if neither:
        first = neither[0]
        raise ValueError(
            f'lr={lr} has neither {first}x{scale} nor {first} for {stems[first]}: give '
            "lr=None to make low-resolution images from hr, or filename_tmpl='...{}...'"
        )
    first, second = (missing[tmpl][0] for tmpl in usual)
    raise ValueError(
        f'lr={lr} has {first} for {first} but {second}x{scale} for {second}: name all in one way'
    )


def _find_lr(
    hr: Path, lr: Path, stems: dict[str, Path], scale: int, template: str | None
) -> list[Path]:
    """Return the low-resolution file of each high-resolution image, in order."""
    names = _by_stem('lr', lr)
    if template is None:
        template = _template(hr, lr, stems, names, scale)
    partners = []
    for stem, file in stems.items():
        name = template.replace('{}', stem)
        if name not in names:
            raise ValueError(f'lr={lr} has no {name} for {file}, by filename_tmpl={template!r}')
        partners.append(names[name])
    return partners


def _make_pair(hr: Path, lr: Path | None, scale: int, set_name: str) -> Pair:
    """Check the sizes in the headers of the files."""
    height, width = image_size(hr)
    size = height // scale, width // scale
    if not min(size):
        raise ValueError(f'{hr} is {height} x {width} pixels, too small for scale={scale}')
    if lr is not None and image_size(lr) != size:
        got = ' x '.join(str(n) for n in image_size(lr))
        raise ValueError(
            f'{lr} is {got} pixels, but {hr} with {height} x {width} needs '
            f'{size[0]} x {size[1]} at scale={scale}'
        )
    return Pair(hr, lr, size, set_name)


def _find_pairs(
    hr: Path, lr: Path | None, scale: int, set_name: str, template: str | None
) -> list[Pair]:
    stems = _by_stem('hr', hr)
    if not stems:
        raise ValueError(f'hr={hr} holds no images')
    partners: Sequence[Path | None] = [None] * len(stems)
    if lr is not None:
        partners = _find_lr(hr, lr, stems, scale, template)
    return [
        _make_pair(file, partner, scale, set_name)
        for file, partner in zip(stems.values(), partners)
    ]


#: One folder or several.
FOLDERS = either(path, sequence(path))
TEMPLATE = Rule(
    "a name with one '{}' in it, for the high-resolution image's",
    lambda value: isinstance(value, str) and value.count('{}') == 1 and not set('/\\') & set(value),
)


@DATASETS.register_module()
class PairedSRDataset(Dataset[Any]):
    """High-resolution images and their bicubic low-resolution versions.

    ::

        DIV2K/DIV2K_train_HR/0001.png      DIV2K/DIV2K_train_LR_bicubic/X4/0001x4.png
        Set5/HR/baby.png                   Set5/LR_bicubic/X4/baby.png or babyx4.png

    Items are ``dict(inputs=lr, data_samples=dict(hr=..., name=..., set_name=...,
    index=...))`` with uint8 images ``(3, h, w)`` and ``(3, scale h, scale w)``. Rows and
    columns that do not fill ``scale`` pixels are cut off at the right and the bottom. All
    folders are searched and all sizes are compared at construction.

    ``dataset[index]`` draws crops from numpy's global generator. ``dataset[index, seed]``
    uses its own generator, see :class:`~mmesbnn.datasets.SeededInfiniteSampler`. Configs of
    datasets can be joined by :class:`~mmesbnn.datasets.SeededConcatDataset`, or be wrapped
    by mmengine's ``ConcatDataset`` and ``RepeatDataset``.

    Args:
        scale: Magnification, at least 1.
        hr: Folder of high-resolution images, or a list of folders.
        lr: Folder of low-resolution images, or a list with as many folders as ``hr``.
            Default None: they are made from ``hr`` with
            :func:`~mmesbnn.images.bicubic.resize`, MATLAB's antialiased bicubic.
        data_root: Folder to which relative folders are relative. Default ``''``.
        set_names: One name per folder. Default None: the name of the folder above ``hr``.
        crop_size: Height and width of a random crop of ``hr``, in pixels. Default None:
            whole images.
        augment: Whether to rotate and mirror images at random, to one of the eight
            symmetries of a square. Default False.
        repeat: Number of times that the images are repeated. Default 1.
        filename_tmpl: Name of a low-resolution image without its ending, where ``{}`` is
            the name of the high-resolution image, such as ``'{}_LR'``. Default None:
            ``'{}x4'`` at ``scale=4``, or ``'{}'``; all images of a folder must use the
            same form.

    Raises:
        ValueError: At construction, if an argument is not as described; if a folder is
            missing or empty; if two images of a folder differ in their endings only; if an
            image has no low-resolution image or one of a wrong size, or is smaller than
            ``crop_size``; or if both default names match.
    """

    @checked(
        scale=positive_int,
        hr=FOLDERS,
        lr=optional(FOLDERS),
        set_names=optional(sequence(text)),
        crop_size=optional(positive_int),
        repeat=positive_int,
        filename_tmpl=optional(TEMPLATE),
    )
    def __init__(
        self,
        scale: int,
        hr: str | Sequence[str],
        lr: str | Sequence[str] | None = None,
        data_root: str = '',
        set_names: Sequence[str] | None = None,
        crop_size: int | None = None,
        augment: bool = False,
        repeat: int = 1,
        filename_tmpl: str | None = None,
    ) -> None:
        if crop_size is not None and (crop_size < scale or crop_size % scale):
            raise ValueError(f'crop_size={crop_size} must be a positive multiple of scale={scale}')
        self.scale, self.repeat = scale, repeat
        self.crop_size, self.augment = crop_size, augment
        self.filename_tmpl = filename_tmpl
        self.pairs = self._collect(hr, lr, data_root, set_names)
        if crop_size is not None:
            self._check_crop(crop_size)

    def _collect(self, hr: Any, lr: Any, root: str, set_names: Any) -> list[Pair]:
        hr = _folders('hr', hr, root)
        lr = [None] * len(hr) if lr is None else _folders('lr', lr, root)
        names = set_names
        if names is None:
            names = [folder.resolve().parent.name for folder in hr]
        if not len(hr) == len(lr) == len(names) > 0:
            raise ValueError(
                f'hr has {len(hr)} folders, lr {len(lr)}, set_names {len(names)}: give '
                'as many of each'
            )
        return [
            pair
            for of_hr, of_lr, name in zip(hr, lr, names)
            for pair in _find_pairs(of_hr, of_lr, self.scale, name, self.filename_tmpl)
        ]

    def _check_crop(self, crop_size: int) -> None:
        needed = crop_size // self.scale
        for pair in self.pairs:
            if min(pair.size) < needed:
                height, width = (self.scale * length for length in pair.size)
                raise ValueError(
                    f'{pair.hr} has {height} x {width} usable pixels, fewer than '
                    f'crop_size={crop_size}'
                )

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta data for evaluators."""
        return dict(scale=self.scale)

    def full_init(self) -> None:
        """Do nothing, because files are found at construction; mmengine's wrappers call it."""

    def __len__(self) -> int:
        return len(self.pairs) * self.repeat

    def _window(self, pair: Pair, rng: np.random.Generator) -> Window:
        """Draw a crop of the low-resolution image."""
        height, width = pair.size
        if self.crop_size is None:
            return 0, 0, height, width
        side = self.crop_size // self.scale
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        return int(top), int(left), side, side

    def _downsampled(self, hr: Tensor, window: Window) -> Tensor:
        """Compute a crop of the downsampled image from the part around it."""
        top, left, height, width = window
        above, before = min(top, _MARGIN), min(left, _MARGIN)
        around = _crop(
            hr,
            top - above,
            left - before,
            height + above + _MARGIN,
            width + before + _MARGIN,
            self.scale,
        )
        size = around.shape[1] // self.scale, around.shape[2] // self.scale
        return _crop(resize(around, size), above, before, height, width)

    def _read(self, pair: Pair, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        window, (height, width) = self._window(pair, rng), pair.size
        hr = _crop(_read_unchanged(pair.hr, pair.size, self.scale), 0, 0, height, width, self.scale)
        if pair.lr is None:
            lr = self._downsampled(hr, window)
        else:
            lr = _crop(_read_unchanged(pair.lr, pair.size), *window)
        return lr, _crop(hr, *window, self.scale)

    def __getitem__(self, key: int | tuple[int, Any]) -> dict[str, Any]:
        index, seed = key if isinstance(key, tuple) else (key, np.random.randint(2**31))
        if not -len(self) <= index < len(self):
            raise IndexError(f'index={index}: the dataset has {len(self)} images')
        rng = np.random.default_rng(seed)
        index %= len(self.pairs)
        pair = self.pairs[index]
        images = self._read(pair, rng)
        symmetry = int(rng.integers(8)) if self.augment else 0
        lr, hr = (_turned(image, symmetry).contiguous() for image in images)
        sample = dict(hr=hr, name=pair.hr.stem, set_name=pair.set_name, index=index)
        return dict(inputs=lr, data_samples=sample)


def _read_unchanged(file: Path, size: tuple[int, int], scale: int = 1) -> Tensor:
    """Read an image whose size, in units of ``scale`` pixels, was found at construction."""
    image = read_rgb(file)
    height, width = image.shape[1:]
    if (height // scale, width // scale) != size:
        raise ValueError(
            f'{file} is {height} x {width} pixels, not of the size that it had when the data set '
            'was built: build it again'
        )
    return image


def _crop(image: Tensor, top: int, left: int, height: int, width: int, scale: int = 1) -> Tensor:
    """Return a crop; its place and size are in units of ``scale`` pixels."""
    return image[:, top * scale : (top + height) * scale, left * scale : (left + width) * scale]


def _turned(image: Tensor, symmetry: int) -> Tensor:
    """Apply one of the eight symmetries of a square to the image; 0 changes nothing."""
    turned = image.flip([dim for bit, dim in ((1, -1), (2, -2)) if symmetry & bit])
    return turned.mT if symmetry & 4 else turned
