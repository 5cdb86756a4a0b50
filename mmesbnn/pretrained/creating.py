"""Building of this package's networks by name."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch import nn

from ..checks import (
    checked,
    either,
    filled_text,
    integer,
    none,
    optional,
    path,
    positive_int,
    sequence,
    shown,
)
from ..models.hub import recipes
from ..optional import require
from ..project import FACTS, build_model, deployed_config, explained, image_facts, scope_of
from .loading import HUB
from .weights import load_into

_INDICES = either(integer(), sequence(integer(), shortest=1), none)
#: Key of a config that says how many classes there are, in heads, losses and preprocessors.
_CLASSES = 'num_classes'


@checked(pattern=filled_text)
def list_models(pattern: str = '*') -> list[str]:
    """List the names of this package's classifiers, for :func:`create_model`.

    The names are those of the metafiles in ``configs``.

    Args:
        pattern: Pattern of the names, as in a shell, such as ``'*bnext*'``. Default ``'*'``.

    Returns:
        Names in alphabetical order.

    Raises:
        FileNotFoundError: If the package was installed without its configs.
    """
    return sorted(fnmatch.filter(recipes(), pattern))


def _read(name: str) -> Config:
    """Return the config of a recipe, with the model that is deployed."""
    known = recipes()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f'; similar names are {", ".join(near)}' if near else ''
        raise ValueError(f'{shown("name", name)} must be one of list_models(){hint}')
    require('mmpretrain', 'cls', 'create_model')
    with explained(f'cannot read the config {known[name]}'):
        config = Config.fromfile(known[name])
    config.model = deployed_config(config)
    return config


def _renumbered(value: Any, count: int) -> Any:
    """Return a part of a config with ``count`` classes wherever it says their number."""
    if isinstance(value, dict):
        return {k: count if k == _CLASSES else _renumbered(v, count) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_renumbered(entry, count) for entry in value)
    return value


def _with_classes(config: Config, count: int) -> Config:
    """Return the config of a recipe for other data with ``count`` classes."""
    content = config.to_dict()
    for key in ('model', 'data_preprocessor'):
        content[key] = _renumbered(content[key], count)
    dataset = content['test_dataloader']['dataset']  # the names of its classes do not hold
    content['test_dataloader'] = {'dataset': {'pipeline': dataset['pipeline']}}
    content[FACTS] = image_facts(config)
    return Config(content)


def _fit_head(config: Config) -> None:
    """Give the head the width of a backbone with changed arguments."""
    with scope_of(config), explained('cannot build the backbone'):
        widths = getattr(MODELS.build(config.model.backbone), 'out_channels', None)
    if isinstance(widths, Sequence):
        config.model.head.in_channels = widths[-1]


def _backbone(config: Config) -> Config:
    """Return the config of the backbone of a recipe."""
    content = {'model': config.model.backbone.to_dict()}
    if content['model']['type'] not in MODELS.module_dict:
        content['default_scope'] = config.default_scope
    return Config(content)


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Keep mmengine from printing three lines for each parameter that is initialised."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@checked(
    name=filled_text,
    num_classes=optional(positive_int),
    out_indices=_INDICES,
    pretrained=optional(path),
    max_bytes=optional(positive_int),
    **HUB,
)
def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    pretrained: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    endpoint: str | None = None,
    max_bytes: int | None = None,
    **backbone: Any,
) -> nn.Module:
    """Build a network of this package by name, as timm's function of this name does.

    A classifier computes logits ``(N, num_classes)`` for images ``(N, 3, H, W)``. With
    ``features_only`` the network is the backbone, which returns a tuple of feature maps; its
    ``out_channels`` are their channels. Images are normalized by the caller, with ``mean``
    and ``std`` of ``model._config.data_preprocessor``. The config of a backbone lacks them; those
    of the classifier of this name apply.

    Args:
        name: Name of :func:`list_models`, such as ``'es_bnext_tiny'``.
        num_classes: Number of classes of the classifier, not of a backbone. Default None:
            that of the recipe.
        features_only: Whether to build the backbone only. Default False.
        out_indices: Stages whose maps the backbone returns. Default None: the last. Needs
            ``features_only``.
        pretrained: Weights: a folder of :func:`save_pretrained`, its name on a hub, a packed
            file, or a checkpoint. A file may hold a whole classifier or a backbone. If its head has
            another number of classes than ``num_classes``, the head starts anew. Binary
            weights of packed files are fixed; those of a checkpoint can be trained. Default
            None: the weights start as in a training from scratch.
        revision: This argument and the next four are those of :func:`from_pretrained`, for a
            name on a hub.
        cache_dir: Folder of downloaded files.
        local_files_only: Whether to read the cache only.
        token: Token of the hub.
        endpoint: Address of the hub.
        max_bytes: Largest memory of the content of the file with weights in bytes. Default
            None: four times its size plus 256 MB.
        **backbone: Arguments of the backbone that differ from the recipe, such as
            ``tau=4`` or ``in_channels=1``.

    Returns:
        Network in training mode. It holds its config, so that :func:`save_pretrained` needs
        none.

    Raises:
        ValueError: If there is no model of this name, or an argument of the backbone is
            wrong.
        ImportError: If mmpretrain is not installed; the recipes build on its configs.
        PretrainedError: If the weights do not fit the network, or the hub does not have them.
        OSError: If there are no weights at ``pretrained``.
    """
    if out_indices is not None:
        if not features_only:
            raise ValueError(f'{shown("out_indices", out_indices)} needs features_only=True')
        backbone['out_indices'] = out_indices
    if num_classes is not None and features_only:
        raise ValueError(
            f'{shown("num_classes", num_classes)} needs features_only=False: a backbone has no head'
        )
    config = _read(name)
    config.model.backbone.update(backbone)
    if features_only:
        config = _backbone(config)
    elif backbone:
        _fit_head(config)
    if num_classes is not None:
        config = _with_classes(config, num_classes)
    with scope_of(config):
        model = build_model(config)
    if pretrained is None:
        init_weights: Any = model.init_weights
        with _without_log():
            init_weights()
    else:
        load_into(
            model,
            pretrained,
            new_head=num_classes is not None,
            max_bytes=max_bytes,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            endpoint=endpoint,
        )
    model._config = config
    model.train()
    return model
