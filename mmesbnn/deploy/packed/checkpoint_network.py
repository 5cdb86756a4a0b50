"""The network of a checkpoint, built from the config in it or from another."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from ...checkpoints import CheckpointError, state_dict_of
from ...checkpoints.bounded import bounded_build, size_of
from ...old_forms import current_config
from ...plain_values import ConfigError, check_plain
from ...project import (
    FACTS,
    InputError,
    build_model,
    image_facts,
    load_config,
    load_state,
    read_checkpoint,
    scope_of,
    stored_test_data,
)
from . import checked_config, stored_config


def read_network(
    checkpoint: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    trust_stored_config: bool = False,
    max_bytes: int | None = None,
) -> tuple[nn.Module, Config, dict[str, Any]]:
    """Build the network of a checkpoint, with its weights.

    Arguments are those of :func:`~mmesbnn.deploy.pack_checkpoint`.

    Returns:
        Network in eval mode, its config, and the meta data of the data set.

    Raises:
        InputError: If checkpoint or config cannot be used.
    """
    checkpoint = Path(checkpoint)
    content = read_checkpoint(checkpoint, max_bytes)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    own = config is None and not trust_stored_config
    by_name = checked_config.names_only() if own else contextlib.nullcontext()
    by_size = _by_size(content, max_bytes) if own else contextlib.nullcontext()
    if config is None:
        cfg = _config_of(meta, checkpoint, trust_stored_config)
    else:
        cfg = load_config(Path(config))
    try:
        with scope_of(cfg), by_name, by_size:
            model = build_model(cfg)
    except InputError as error:
        raise InputError(f'{checkpoint if config is None else config}: {error}') from error
    load_state(model, content, checkpoint)
    model.eval()
    return model, cfg, plain_meta(meta.get('dataset_meta'))


def _by_size(content: Any, max_bytes: int | None) -> contextlib.AbstractContextManager[Any]:
    """Return a context that limits the size of a network by the weights in a checkpoint."""
    try:
        weights = size_of(state_dict_of(content).values())
    except CheckpointError:
        weights = 0  # there are no weights; load_state() raises the error
    return bounded_build(weights, max_bytes)


def plain_meta(meta: Any) -> dict[str, Any]:
    """Return the meta data of a data set that JSON can hold, mainly the classes."""
    plain = {}
    for key, value in meta.items() if isinstance(meta, Mapping) else ():
        try:
            stored_config.to_json({key: value})
        except ConfigError:
            continue
        plain[key] = value
    return plain


def _config_of(meta: Mapping[str, Any], checkpoint: Any, trust: bool) -> Config:
    """Return the config in a checkpoint; it is checked unless it is trusted."""
    try:
        config = _stored_in(meta)
    except ConfigError as error:
        raise InputError(f'{checkpoint}: {error}; name the config') from error
    if not isinstance(config.get('model'), dict):
        raise InputError(f'{checkpoint} holds no config: name the config')
    try:
        kept = _trusted(config) if trust else checked_config.checked(config)
    except ConfigError as error:
        raise InputError(f'{checkpoint}: {error}') from error
    return Config({key: kept[key] for key in stored_config.KEPT if kept.get(key)})


def _trusted(config: Mapping[str, Any]) -> dict[str, Any]:
    data = stored_test_data(config)
    return {**config, 'test_dataloader': data, FACTS: image_facts(config)}


def _stored_in(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config in the meta data of a checkpoint, {} if there is none."""
    if isinstance(meta.get('cfg'), str):
        return stored_config.parse_text(meta['cfg'])
    if isinstance(meta.get('model'), Mapping):  # of tools/convert_checkpoint.py
        config = {'model': dict(meta['model']), 'default_scope': 'mmpretrain'}
        check_plain(config, 'the stored config')
        return current_config(config)
    return {}
