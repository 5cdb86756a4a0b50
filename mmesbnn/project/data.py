"""Data of a config: image size, transforms, classes, batches."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sized
from contextlib import suppress
from typing import Any, cast

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..checks import checked, optional, positive_int, sequence
from ..images.files import MAX_PIXELS
from ..plain_files import open_plain
from .config import CONFIG, scope_of, type_name
from .errors import InputError, explained

#: Image size if neither the user nor the config gives one.
DEFAULT_SIZE = (224, 224)

#: Key of a config for the facts of :func:`image_facts`.
FACTS = 'test_images'
#: Rule of height and width.
SIZE = sequence(positive_int, length=2)

#: Data sets of mmpretrain whose images are in RGB; images of files are in BGR.
RGB_DATASETS = ('CIFAR10', 'CIFAR100')

#: Transforms that set the size of an image, and the argument with the size.
SIZING = {
    'CenterCrop': 'crop_size',
    'EfficientNetCenterCrop': 'crop_size',
    'EfficientNetRandomCrop': 'scale',
    'FixScaleResize': 'scale',
    'Pad': 'size',
    'RandomCrop': 'crop_size',
    'RandomResizedCrop': 'scale',
    'Resize': 'scale',
    'ResizeEdge': 'scale',
}


def _loader(cfg: Mapping[str, Any], *splits: str) -> dict[str, Any] | None:
    """Return the dataloader of the first of ``splits`` that has one, or None."""
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            return loader[0] if isinstance(loader, (list, tuple)) else loader
    return None


def _dataset_with(key: str, loader: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the outermost data set of ``loader`` that has ``key``, or else the innermost one.

    Wrappers such as ``RepeatDataset`` hold another one. Of several, as in ``ConcatDataset``, it
    is the first.
    """
    found = loader.get('dataset') if isinstance(loader, Mapping) else None
    dataset: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    while key not in dataset:
        several = dataset.get('datasets')
        first = several[0] if isinstance(several, (list, tuple)) and several else None
        inner = dataset.get('dataset') or first
        if not isinstance(inner, Mapping):
            break
        dataset = inner
    return dict(dataset)


def tested_dataset(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the test or validation data set that has the transforms.

    Args:
        cfg: Config of the data, which may come from an unknown source.
    """
    return _dataset_with('pipeline', _loader(cfg, 'test', 'val'))


def _pipeline(loader: Mapping[str, Any] | None) -> Iterable[dict[str, Any]]:
    return _dataset_with('pipeline', loader).get('pipeline') or ()


def _height_first(kind: Any, scope: str) -> bool:
    """Return True if a transform's size is (height, width); OpenMMLab's usual order is the other.

    Args:
        kind: ``type`` of the transform.
        scope: Default scope of the config.
    """
    if type_name(kind) != 'RandomCrop':
        return type_name(kind) == 'RandomResizedCrop'
    # a class, a name with its scope, or a name
    package = kind.rpartition('.')[0] if isinstance(kind, str) else kind.__module__
    return (package or scope).partition('.')[0] != 'mmdet'


def _sized(pipeline: Iterable[dict[str, Any]], scope: str) -> tuple[int, int] | None:
    """Return height and width that the last of the ``SIZING`` transforms sets."""
    size = None
    for transform in pipeline:
        kind = transform.get('type')
        value = transform.get(SIZING.get(type_name(kind), ''))
        if isinstance(value, int):
            size = (value, value)
        # the two numbers of a crop can also be shares of the image
        elif isinstance(value, (list, tuple)) and [type(x) for x in value] == [int, int]:
            size = (value[0], value[1]) if _height_first(kind, scope) else (value[1], value[0])
    return size


def _test_size(cfg: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size that the test pipeline sets."""
    pipelines = _pipeline(_loader(cfg, 'test', 'val')), cfg.get('test_pipeline') or ()
    return _first_size(cfg, pipelines)


def _first_size(
    cfg: Mapping[str, Any], pipelines: Iterable[Iterable[dict[str, Any]]]
) -> tuple[int, int] | None:
    scope = cfg.get('default_scope') or ''
    sizes = (_sized(pipeline, scope) for pipeline in pipelines)
    return next((size for size in sizes if size is not None), None)


def _unchanged_size(cfg: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size of test images that the test pipeline does not change."""
    stored: Any = _stored_facts(cfg).get('size')
    if SIZE.accepts(stored):
        return stored[0], stored[1]
    return _first_size(cfg, [_pipeline(_loader(cfg, 'train'))])


@checked(cfg=CONFIG)
def image_size(cfg: Config) -> tuple[int, int] | None:
    """Return height and width of a test image, None if the config does not define them.

    The size is that of the last transform of the test pipeline that sets a size. If there
    is none, because small images are used unchanged, it is that of the training pipeline,
    which crops images to their own size. A single number is a square.
    """
    return _test_size(cfg) or _unchanged_size(cfg)


def input_channels(cfg: Config) -> int:
    """Return the channels of the model's input.

    Args:
        cfg: Config of the model, which may be a backbone. A backbone may hold another one, as a
            ``BinaryTransformer`` does.
    """
    reader = cfg.model
    while isinstance(reader.get('backbone'), dict):
        reader = reader['backbone']
    return cast(int, reader.get('in_channels', 3))


@checked(cfg=CONFIG, size=optional(SIZE))
def input_shape(cfg: Config, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
    """Return channels, height and width of the model's input.

    Args:
        cfg: As that of :func:`input_channels`.
        size: Height and width. Default None: :func:`image_size`, or 224 x 224.

    Raises:
        InputError: If the config sets more than ``MAX_PIXELS`` pixels. It can be that of a
            packed file.
    """
    found = size or image_size(cfg) or DEFAULT_SIZE
    if size is None and found[0] * found[1] > MAX_PIXELS:
        raise InputError(
            f'the config sets images of {found[0]} x {found[1]} pixels: must be at most '
            f'{MAX_PIXELS:,} pixels'
        )
    return (input_channels(cfg), *found)


def testing_pipeline(cfg: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Return the transforms of the test data, or of the validation data.

    Args:
        cfg: Config. Its ``test_pipeline`` is used if the data have no transforms.
    """
    return _pipeline(_loader(cfg, 'test', 'val')) or cfg.get('test_pipeline') or ()


def gives_rgb(cfg: Mapping[str, Any]) -> bool:
    """Return whether the data set gives images in RGB; those of files come in BGR.

    Args:
        cfg: Config of the data.
    """
    kind = _dataset_with('pipeline', _loader(cfg, 'test', 'val')).get('type')
    return type_name(kind) in RGB_DATASETS or _stored_facts(cfg).get('rgb') is True


def reads_rgb(cfg: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> bool:
    """Return whether a network reads images in RGB; if not, it reads them in BGR.

    Args:
        cfg: Config of the data.
        preprocessor: Config of the data preprocessor. Each of the three spellings exchanges
            blue and red.
    """
    swaps = any(preprocessor.get(name) for name in ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr'))
    return swaps != gives_rgb(cfg)


def _stored_facts(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    facts = cfg.get(FACTS)
    return facts if isinstance(facts, Mapping) else {}


def image_facts(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the data sets of a config say about test images.

    A config without data sets keeps these facts at the key ``FACTS``.

    Args:
        cfg: Config of the data.

    Returns:
        ``rgb``, True, if the data set gives images in RGB; ``size``, height and width, if the
        pipeline of the test data set does not set them. What does not hold or is not known is
        left out.
    """
    kept = _first_size(cfg, [testing_pipeline(cfg)])
    size = None if kept else _test_size(cfg) or _unchanged_size(cfg)
    return {**({'rgb': True} if gives_rgb(cfg) else {}), **({'size': size} if size else {})}


def _listed(name: str, value: Any) -> Any:
    """Return the lines of a file, as mmengine reads a text in meta data; else ``value``."""
    if isinstance(value, str):
        file = os.path.expanduser(value)
        with suppress(OSError, TypeError):  # then it is no file, and means itself
            if os.path.exists(file):  # else it can be an address
                open_plain(file).close()  # mmengine would wait for a pipe
            try:
                return list_from_file(file)
            except UnicodeError as error:
                raise InputError(f'{name}={value!r} must be a file of text in UTF-8') from error
    return value


def _given_meta(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the meta data that the config of a data set gives."""
    classes = dataset.get('classes')  # an option of mmpretrain's data sets
    given = {**({'classes': classes} if classes else {}), **(dataset.get('metainfo') or {})}
    return {name: _listed(name, value) for name, value in given.items()}


def dataset_meta(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the meta data of the test or validation data set, such as the names of classes.

    What the config does not give comes from the data set's class.

    Args:
        cfg: Config of the data. A text in ``metainfo`` can be the name of a file.

    Raises:
        ImportError: If the package of the config's default scope is not installed.
        InputError: If such a file is not text in UTF-8.
    """
    dataset = _dataset_with('metainfo', _loader(cfg, 'test', 'val'))
    given = _given_meta(dataset)
    if 'type' not in dataset or 'classes' in given:
        return given
    with scope_of(cfg), DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        try:
            return {**getattr(registry.get(dataset['type']), 'METAINFO', {}), **given}
        except Exception:  # its package is not installed, so there are no meta data
            return given


def _with_names(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a data set with the lists of names that it reads from files."""
    read = dict(dataset)
    if isinstance(read.get('dataset'), dict):  # of a wrapper
        read['dataset'] = _with_names(read['dataset'])
    if isinstance(read.get('datasets'), (list, tuple)):
        read['datasets'] = [_with_names(x) if isinstance(x, dict) else x for x in read['datasets']]
    given = _given_meta(dataset)
    if isinstance(given.get('classes'), str):  # one class
        given['classes'] = [given['classes']]
    if given:
        read.pop('classes', None)
        read['metainfo'] = {k: v for k, v in given.items() if not isinstance(v, str)}
    return read


def stored_test_data(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``test_dataloader`` of a config that is stored beside a network.

    It is the loader of the test data, or of the validation data. Transforms are those of
    :func:`testing_pipeline`. Names in files are read, because the files are not stored.

    Args:
        cfg: Config of the data.
    """
    loader = _loader(cfg, 'test', 'val') or {}
    dataset, pipeline = loader.get('dataset') or {}, testing_pipeline(cfg)
    if pipeline and not _pipeline(loader):
        dataset = {**dataset, 'pipeline': pipeline}
    return {**loader, 'dataset': _with_names(dataset)} if dataset else dict(loader)


def _head(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the head that classifies; in a cascade the last head."""
    model = cfg.get('model') or {}
    head = (model.get('roi_head') or model).get('bbox_head') or model.get('head') or {}
    return head[-1] if isinstance(head, (list, tuple)) else head


def class_names(cfg: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> list[str] | None:
    """Return the names of the classes if their number is that of the head.

    If the number differs, the names are left out, and a ``UserWarning`` says so.

    Args:
        cfg: Config of model and data.
        meta: Meta data of the data set in the checkpoint. They have priority over the
            config. Default None.

    Returns:
        Names, or None if they are not known.
    """
    count = _head(cfg).get('num_classes')
    for source in (meta, dataset_meta(cfg)):
        classes = (source or {}).get('classes') or (source or {}).get('CLASSES')
        if not classes:
            continue
        classes = [classes] if isinstance(classes, str) else classes
        if count in (None, len(classes)):
            return [str(name) for name in classes]
        warnings.warn(
            f'the data has {len(classes)} names of classes and the head '
            f'num_classes={count}: these names are left out',
            stacklevel=2,
        )
    return None


def build_test_loader(cfg: Config, batch_size: int, **options: Any) -> DataLoader[Any]:
    """Build the loader of the test data, or of the validation data, for this process.

    Args:
        cfg: A config.
        batch_size: Number of images per batch; the last batch can have fewer.
        **options: Entries of the loader's config to change.

    Raises:
        InputError: If there is no such data, or it cannot be read.
    """
    loader = _loader(cfg, 'test', 'val')
    if loader is None:
        raise InputError('the config has neither a test_dataloader nor a val_dataloader')
    if 'type' not in (loader.get('dataset') or {}):
        raise InputError('the config does not say what its test data set is')
    own = {**loader, 'batch_size': batch_size, 'num_workers': 0, 'drop_last': False}
    for name in ('persistent_workers', 'prefetch_factor', 'pin_memory'):
        own.pop(name, None)
    with explained('cannot read the test data'), scope_of(cfg):
        return Runner.build_dataloader({**own, **options})


@checked(cfg=CONFIG, batch_size=positive_int)
def real_batch(cfg: Config, batch_size: int) -> Any:
    """Return the first images of the config's test data, or of its validation data.

    Args:
        cfg: Config of the data.
        batch_size: Largest number of images.

    Returns:
        Batch of the data loader, for the model's ``test_step``.

    Raises:
        InputError: If there are no such data, or if they cannot be read or are empty.
    """
    loader = build_test_loader(cfg, batch_size)
    if len(cast(Sized, loader.dataset)) == 0:
        raise InputError('cannot read the test data: it has no images')
    with explained('cannot read the test data'), scope_of(cfg):
        return next(iter(loader))
