"""A model, an image size and a real batch, from an OpenMMLab config."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from torch import nn

from .. import checkpoints
from ..checks import checked, instance, optional, positive_int, sequence
from ..errors import MmesbnnError
from ..models.classifiers import student_config
from ..optional import require
from .plain_yaml import plain_yaml

#: Image size where neither the user nor the config tells.
DEFAULT_SIZE = (224, 224)

#: Which extra of mmesbnn installs what a config's default scope stands for.
EXTRAS = {'mmpretrain': 'cls', 'mmdet': 'det'}

#: Transforms that set the size of an image, and the argument that does.
SIZING = {
    'CenterCrop': 'crop_size',
    'Pad': 'size',
    'RandomCrop': 'crop_size',
    'RandomResizedCrop': 'scale',
    'Resize': 'scale',
    'ResizeEdge': 'scale',
}

#: Rules of arguments.
CONFIG = instance(Config, 'a Config of mmengine')
MODEL = instance(nn.Module, 'an nn.Module')


class InputError(MmesbnnError):
    """What the user gave does not work; the message says what and why."""


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn any error into an :class:`InputError` ``what: the error's first line``."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'{what}: {_first_line(error)}') from error


def _first_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str() of a KeyError is the repr of its message
    elif isinstance(error, OSError) and error.strerror:
        text = f'{error.strerror}: {error.filename}'
    return next(iter(text.strip().splitlines()), type(error).__name__)


@checked()
def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config and make its default scope the current one.

    A config in Python runs, and any config builds what it names: read those that you
    wrote or looked through. YAML is read without tags that run code.

    Args:
        path: Path of the config.
        options: Entries to change, ``{'model.backbone.tau': 4}``. Default None.

    Raises:
        InputError: If it cannot be read, has no model, or needs a package that is not
            installed.
    """
    with explained(f'cannot read the config {path}'), plain_yaml():
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    scope = cfg.get('default_scope') or 'mmengine'
    if scope in EXTRAS:
        with explained('cannot use the config'):
            require(scope, EXTRAS[scope], str(path))
    if not isinstance(cfg.get('model'), dict):
        raise InputError(f'{path} has no model')
    init_default_scope(scope)
    return cfg


def scope_of(config: Mapping[str, Any]) -> contextlib.AbstractContextManager:
    """Context in which ``config`` finds the components of its default scope.

    Raises:
        ImportError: If the scope's package is not installed.
    """
    scope = config.get('default_scope') or 'mmengine'
    if scope in EXTRAS:
        require(scope, EXTRAS[scope], 'The network')
    return DefaultScope.overwrite_default_scope(scope)


@checked(cfg=CONFIG)
def deployed_config(cfg: Config) -> dict[str, Any]:
    """Config of the model of ``cfg`` as it is deployed: without teachers.

    With the config's ``data_preprocessor``, which normalises the images, as mmengine's
    runner adds it.
    """
    model = student_config(cfg.model)
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model


@checked(cfg=CONFIG)
def build_model(cfg: Config) -> nn.Module:
    """Build the model of ``cfg`` as it is deployed, without weights.

    Raises:
        InputError: If it cannot be built.
    """
    with explained('cannot build the model'):
        return MODELS.build(deployed_config(cfg))


def _loader(cfg: Config, *splits: str) -> dict[str, Any] | None:
    """The dataloader of the first of ``splits`` that has one, or None."""
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            return loader[0] if isinstance(loader, (list, tuple)) else loader
    return None


def _pipeline(loader: dict[str, Any] | None) -> Iterable[dict]:
    dataset = (loader or {}).get('dataset') or {}
    while 'pipeline' not in dataset and isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']  # a wrapper such as RepeatDataset
    return dataset.get('pipeline') or ()


def _sized(pipeline: Iterable[dict]) -> tuple[int, int] | None:
    """Height and width that the last of the ``SIZING`` transforms sets."""
    size = None
    for transform in pipeline:
        kind = transform.get('type')
        name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
        value = transform.get(SIZING.get(name.rpartition('.')[2], ''))
        if isinstance(value, int):
            size = (value, value)
        elif isinstance(value, (list, tuple)) and len(value) == 2:
            size = (value[1], value[0])  # OpenMMLab writes (width, height)
    return size


@checked(cfg=CONFIG)
def image_size(cfg: Config) -> tuple[int, int] | None:
    """Height and width of a test image, None if the config does not tell.

    What the last transform that sets a size sets it to, in the test pipeline; if there
    is none (small images are taken as they are), in the training pipeline, which crops
    them to their own size. A single number stands for a square.
    """
    pipelines = (
        _pipeline(_loader(cfg, 'test', 'val')),
        cfg.get('test_pipeline') or (),
        _pipeline(_loader(cfg, 'train')),
    )
    sizes = (_sized(pipeline) for pipeline in pipelines)
    return next((size for size in sizes if size is not None), None)


@checked(cfg=CONFIG, size=optional(sequence(positive_int, length=2)))
def input_shape(cfg: Config, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
    """Channels, height and width of the model's input.

    Args:
        cfg: A config.
        size: Height and width. Default None: those of :func:`image_size`, or 224 x 224.
    """
    channels = (cfg.model.get('backbone') or {}).get('in_channels', 3)
    return (channels, *(size or image_size(cfg) or DEFAULT_SIZE))


@checked(cfg=CONFIG, batch_size=positive_int)
def real_batch(cfg: Config, batch_size: int) -> Any:
    """The first images of the config's test (or else validation) dataset.

    Args:
        cfg: A config.
        batch_size: How many images, at most.

    Returns:
        What the dataloader gives, for the model's ``test_step``.

    Raises:
        InputError: If there is no such dataset, or it cannot be read, or is empty.
    """
    loader = _loader(cfg, 'test', 'val')
    if loader is None:
        raise InputError('the config has neither a test_dataloader nor a val_dataloader')
    if 'type' not in (loader.get('dataset') or {}):
        raise InputError('the config does not say what its test data set is')
    # one small batch, read in this process
    options = {**loader, 'batch_size': batch_size, 'num_workers': 0, 'drop_last': False}
    for name in ('persistent_workers', 'prefetch_factor', 'pin_memory'):
        options.pop(name, None)
    with explained('cannot read a batch of the test data'), scope_of(cfg):
        dataloader = Runner.build_dataloader(options)
        if len(dataloader.dataset) == 0:
            raise InputError('cannot read a batch of the test data: it has no images')
        return next(iter(dataloader))


@checked(max_bytes=optional(positive_int))
def read_checkpoint(path: str | Path, max_bytes: int | None = None) -> Any:
    """Read a checkpoint; see :func:`mmesbnn.checkpoints.read_checkpoint`.

    Args:
        path: A file of ``torch.save`` or safetensors.
        max_bytes: How much memory its content may take up. Default None: 256 MB more
            than four times the file's size.

    Raises:
        InputError: If it cannot be read or holds something else.
    """
    try:
        return checkpoints.read_checkpoint(path, max_bytes=max_bytes)
    except OSError as error:
        raise InputError(f'cannot read the checkpoint {path}: {error.strerror or error}') from error
    except checkpoints.CheckpointError as error:
        raise InputError(f'cannot read the checkpoint {error}') from error


@checked(model=MODEL)
def load_state(model: nn.Module, content: Any, name: str | Path) -> None:
    """Load what was read from a checkpoint into ``model``: all of it, or an error.

    Args:
        model: The network.
        content: A training checkpoint or a bare state dict.
        name: What to call the checkpoint in errors.

    Raises:
        InputError: If it holds no weights, or is not one of this model.
    """
    try:
        state = checkpoints.strip_wrapper(checkpoints.state_dict_of(content))
    except checkpoints.CheckpointError as error:
        raise InputError(f'the checkpoint {name} {error}') from error
    found = checkpoints.misfits(state, model.state_dict())
    if found:
        raise InputError(
            f'{name} is not a checkpoint of this model: of its entries ' + ', '.join(found)
        )
    with explained(f'cannot load the checkpoint {name}'):
        model.load_state_dict(state)


@checked(model=MODEL, max_bytes=optional(positive_int))
def load_weights(model: nn.Module, path: str | Path, max_bytes: int | None = None) -> None:
    """Load a checkpoint into ``model``: all of it, or an error.

    Args:
        model: The network.
        path: A file of ``torch.save`` or safetensors.
        max_bytes: As in :func:`read_checkpoint`.

    Raises:
        InputError: If it cannot be read, or is not one of this model.
    """
    load_state(model, read_checkpoint(path, max_bytes), path)
