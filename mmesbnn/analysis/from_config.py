"""A model, an image size and a real batch, from an OpenMMLab config."""

from __future__ import annotations

import contextlib
import copy
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from ..errors import MmesbnnError
from ..models.classifiers import student_config
from ..optional import require

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


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config and make its default scope the current one.

    Args:
        path: Path of the config.
        options: Entries to change, ``{'model.backbone.tau': 4}``. Default None.

    Raises:
        InputError: If it cannot be read, has no model, or needs a package that is not
            installed.
    """
    with explained(f'cannot read the config {path}'):
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


def deployed_config(cfg: Config) -> dict[str, Any]:
    """Config of the model of ``cfg`` as it is deployed: without teachers.

    With the config's ``data_preprocessor``, which normalises the images, as mmengine's
    runner adds it.
    """
    model = student_config(cfg.model)
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model


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


def image_size(cfg: Config) -> tuple[int, int] | None:
    """Height and width of a test image, None if the config does not tell.

    What the last transform that sets a size sets it to, in the test pipeline; if there
    is none (small images are taken as they are), in the training pipeline, which crops
    them to their own size. A single number stands for a square.
    """
    pipelines = (_pipeline(_loader(cfg, 'test', 'val')), cfg.get('test_pipeline') or (),
                 _pipeline(_loader(cfg, 'train')))  # fmt: skip
    sizes = (_sized(pipeline) for pipeline in pipelines)
    return next((size for size in sizes if size is not None), None)


def input_shape(
    cfg: Config, size: tuple[int, int] | None = None
) -> tuple[int, int, int]:  # fmt: skip
    """Channels, height and width of the model's input.

    Args:
        cfg: A config.
        size: Height and width. Default None: those of :func:`image_size`, or 224 x 224.
    """
    channels = (cfg.model.get('backbone') or {}).get('in_channels', 3)
    return (channels, *(size or image_size(cfg) or DEFAULT_SIZE))


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
        raise InputError(
            'the config has neither a test_dataloader nor a val_dataloader'
        )
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


def read_checkpoint(path: str | Path) -> Any:
    """What a checkpoint holds: tensors, plain values, allow-listed classes, no others.

    Args:
        path: A file of ``torch.save`` or safetensors.

    Raises:
        InputError: If it cannot be read or holds something else.
    """
    path = Path(path)
    try:
        if path.suffix == '.safetensors' and path.exists():
            name = 'safetensors.torch'
            return require(name, 'deploy', f'Reading {path}').load_file(path)
        return torch.load(path, map_location='cpu', weights_only=True)
    except OSError as error:
        raise InputError(
            f'cannot read the checkpoint {path}: {error.strerror or error}'
        ) from error
    except pickle.UnpicklingError as error:
        unknown = re.search(r'GLOBAL (\S+)', str(error))
        if unknown:
            raise InputError(
                f'the checkpoint {path} holds {unknown[1]} objects, which may run code '
                'when they are read: save its state_dict alone'
            ) from error
        raise InputError(f'{path} is damaged or is not a checkpoint') from error
    except ImportError as error:
        raise InputError(str(error)) from error
    except Exception as error:  # damaged bytes raise nearly anything
        raise InputError(f'{path} is damaged or is not a checkpoint') from error


def _state_dict(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, named as the model names them."""
    content = read_checkpoint(path)
    state = content.get('state_dict', content) if isinstance(content, dict) else {}
    state = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    if not state:
        raise InputError(f'the checkpoint {path} holds no state_dict')
    prefix = 'module.'  # of a model saved inside DistributedDataParallel
    if all(name.startswith(prefix) for name in state):
        state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


def _some(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into ``model``: all of it, or an error.

    Raises:
        InputError: If it cannot be read, or is not one of this model.
    """
    path = Path(path)
    state, own = _state_dict(path), model.state_dict()
    reshaped = [k for k in state.keys() & own.keys() if state[k].shape != own[k].shape]
    fitting = {k: v for k, v in state.items() if k not in reshaped}
    with explained(f'cannot load the checkpoint {path}'):
        missing, unexpected = model.load_state_dict(fitting, strict=False)
    problems = {
        'are missing': [name for name in missing if name not in reshaped],
        'are unknown': unexpected,
        'have another shape': sorted(reshaped),
    }
    told = [f'{len(v)} {k} ({_some(v)})' for k, v in problems.items() if v]
    if told:
        raise InputError(
            f'{path} is not a checkpoint of this model: of its entries '
            + ', '.join(told)
        )
