"""Format of an export: a folder with a network and the settings to run it.

    model.xml, model.bin    OpenVINO IR
    model.native            program for mmesbnn.native, if it can run the network, or the
                            backbone of a detector
    head.xml, head.bin      OpenVINO IR of the detector's neck and heads, which read the maps of
                            model.native; their outputs are those of model.xml
    manifest.json           settings, see below
    report.json             list of binary layers and of other layers, for people

``manifest.json`` holds::

    format          1
    task            'classification', 'detection' or 'super_resolution'
    versions        {'mmesbnn': '0.1.0', 'openvino': ..., 'torch': ...}
    source          {'config': file name or None, 'checkpoint': file name or None}
    files           {'model.xml': sha256, 'model.bin': sha256}, and those of the files
                    'model.native', 'head.xml', 'head.bin' that exist
    maps            outputs of model.native and inputs of head.xml, in their order: [{'name',
                    'shape'}], of one image; left out if model.native is the whole network
    no_native       reason why there is no model.native
    inputs          in the IR's order: [{'name', 'shape', 'dtype'}]; axis 0 is the batch;
                    -1 in a shape is any size
    outputs         in the IR's order: [{'name', 'shape'}]
    preprocessing   {'steps': [...], 'mean': [...], 'std': [...], 'to_rgb': bool,
                    'pad_divisor': int, 'pad_value': number}
    classes         names in the order of the labels, or None
    decoding        how outputs become results, by task

Entries that have their default are left out. The classes in :mod:`mmesbnn.deploy.tasks`
make ``task``, ``preprocessing``, ``classes`` and ``decoding`` from a config.

The input of the IR is ``float32``, ``(N, C, H, W)``. The runner normalizes images, not the
IR: ``(x - mean) / std``, in RGB order if ``to_rgb``, else in BGR order. It then pads them
with ``pad_value`` below and on the right, to multiples of ``pad_divisor``, or to the shape
of an IR with a fixed shape. These are the steps of ``preprocessing``; sizes are (height,
width)::

    {'type': 'resize', 'size', 'interpolation', 'backend'}
    {'type': 'resize_edge', 'edge': 'short'|'long'|'width'|'height', 'scale', ...}
    {'type': 'resize_within', 'size', ...}   largest image that fits, same aspect ratio
    {'type': 'centre_crop', 'size'}
    {'type': 'pad', 'size' or 'divisor' or 'square', 'value'}   before normalizing;
                    'square': True pads to the longer side and can have a 'divisor';
                    the value is a grey, or red, green and blue

``decoding`` of ``classification`` is ``{'activation': 'softmax'|'sigmoid'|None}``. The
output is ``(N, classes)``.

``decoding`` of ``detection`` is ``{'score_thr', 'iou_thr', 'max_per_image', 'min_size',
'levels', 'nms_pre', 'max_per_class', 'border'}``. The outputs are

- ``boxes``, ``(N, K, 4)``, or ``(N, K, classes, 4)`` if every class has its own box:
  corners x1, y1, x2, y2 in pixels of the network's input, not clipped to the image;
- ``scores``, ``(N, K, classes)``, activated and without background;
- optionally ``factors``, ``(N, K)``.

``levels`` is the number of the ``K`` boxes that belong to each level. Each level keeps the
best ``nms_pre`` (box, class) pairs; -1 keeps all but the worst, as mmdet does. Both are
None if all pairs are kept. The runner works in this order:

1. drop scores up to ``score_thr``;
2. keep the best ``nms_pre`` pairs of each level;
3. keep the best ``max_per_class`` boxes of each class (None: all);
4. multiply the scores with the factors;
5. clip boxes to end ``border`` pixels before the end of the image (None: no clipping);
6. drop boxes with a side up to ``min_size`` pixels of the image (-1: none);
7. remove, class by class, boxes that overlap a better box by more than ``iou_thr``;
8. keep the best ``max_per_image`` boxes (0 or -1: all).

If the IR chooses the boxes itself, ``decoding`` is ``{'final': True}``. The outputs are
then ``boxes`` ``(N, K, 4)``, ``scores`` ``(N, K)`` and ``labels`` ``(N, K)``; the label is
-1 in unused rows.

``decoding`` of ``super_resolution``: ``{'scale', 'upsampling', 'multiple', 'x0_clip',
'scheduler'}``, see :class:`~.sampling_settings.SuperResolutionDecoding`. The inputs are
``sample``, ``(N, 6, H, W)``, the enlarged image and then the noisy one, both in [0, 1],
and ``timestep``, ``(N,)``. The output is the prediction ``(N, 3, H, W)``. Height and width
must be multiples of ``multiple``.

Programs read and write the manifest as
:class:`mmesbnn.deploy.runtime.manifest_schema.Manifest`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...checks import checked, instance
from ...errors import MmesbnnError, sentence
from ...plain_files import open_plain
from ...version import __version__
from ...whole_files import whole_file
from .manifest_schema import HEAD_FILES, MODEL_FILES, NATIVE_FILE, REPORT, Manifest
from .schema import Unfit
from .strict_json import parse_strict_json

NAME = 'manifest.json'
#: Names of all files that an export can have.
FILES = (*MODEL_FILES, NATIVE_FILE, *HEAD_FILES, NAME, REPORT)
FORMAT = 1
#: Largest size of a manifest in bytes; 100,000 names of classes take less.
_LARGEST = 2**22
#: Largest depth of nested lists and dicts; a manifest has 4.
_DEEPEST = 20


class ExportError(MmesbnnError):
    """Error about a folder that is not a usable export; the message says why."""


@contextlib.contextmanager
def fitting(name: str) -> Iterator[None]:
    """Turn an error about entries of a manifest into an :class:`ExportError` with ``name``."""
    try:
        yield
    except Unfit as error:
        raise ExportError(f'{name}: {error}') from None


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file as hexadecimal digits.

    Raises:
        OSError: If the file cannot be read, or is not a regular file.
    """
    digest = hashlib.sha256()
    with open_plain(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@checked(manifest=instance(Manifest, 'a Manifest'))
def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Write ``manifest.json`` beside the network it describes.

    Args:
        folder: Folder with ``model.xml`` and ``model.bin``, and maybe ``model.native``,
            ``head.xml`` and ``head.bin``.
        manifest: Manifest; the function sets ``versions['mmesbnn']`` and ``files``.

    Returns:
        Path of the manifest.

    Raises:
        OSError: If it cannot be written, or the network is missing.
    """
    folder = Path(folder)
    more = [name for name in (NATIVE_FILE, *HEAD_FILES) if (folder / name).exists()]
    whole = replace(
        manifest,
        versions={'mmesbnn': __version__, **manifest.versions},
        files={name: sha256(folder / name) for name in (*MODEL_FILES, *more)},
    )
    content = {'format': FORMAT, **whole.to_dict()}
    with whole_file(folder / NAME) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding='utf-8')
    return folder / NAME


@checked()
def read_manifest(folder: str | os.PathLike[str], verify: bool = True) -> Manifest:
    """Read an export's manifest and check that its network is the exported one.

    Args:
        folder: Folder of the export.
        verify: Whether to compare the checksums of the files. Default True.

    Raises:
        ExportError: If the folder is not an export, has a later format, lacks a file, has
            a changed file, or has an invalid manifest.
    """
    folder = Path(folder)
    path = folder / NAME
    if not folder.is_dir():
        raise ExportError(f'{folder}: no such folder')
    if not os.path.lexists(path):
        raise ExportError(f'{folder}: not an export, it has no {NAME}')
    content = _read(path)
    if not isinstance(content, dict) or not isinstance(content.get('format'), int):
        raise ExportError(f'{path}: not the manifest of an export')
    if content['format'] > FORMAT:
        raise ExportError(f'{path}: format={content["format"]}, this mmesbnn reads up to {FORMAT}')
    with fitting(str(path)):
        manifest = Manifest.from_dict(content)
    for name in {**dict.fromkeys(MODEL_FILES), **(manifest.files or {})}:
        _check_file(folder / name, (manifest.files or {}).get(name), verify)
    return manifest


def _read(path: Path) -> Any:
    try:
        with open_plain(path) as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise ValueError(f'more than {_LARGEST:,} bytes')
        return parse_strict_json(raw.decode('utf-8'), _DEEPEST)
    except (OSError, ValueError) as error:
        raise ExportError(f'{path}: cannot be read ({_reason(error)})') from error


def _reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or sentence(error)


def _check_file(path: Path, expected: str | None, verify: bool) -> None:
    if not os.path.lexists(path):
        raise ExportError(f'{path}: missing from the export')
    try:
        with open_plain(path):
            pass
        if not verify or sha256(path) == expected:
            return
    except OSError as error:
        raise ExportError(f'{path}: cannot be read ({_reason(error)})') from error
    raise ExportError(
        f'{path}: changed since the export (its sha256 is not the one in {NAME}); '
        'export again, or pass verify=False if the change is yours'
    )
