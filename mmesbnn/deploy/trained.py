"""A trained network to export, from whichever files hold it."""

from __future__ import annotations

import os
from typing import Any

from mmengine.config import Config
from torch import nn

from ..analysis.from_config import (
    InputError,
    build_model,
    load_config,
    load_weights,
    read_checkpoint,
)
from .unpacking import load_packed


def load_trained(
    path: str | os.PathLike, checkpoint: str | os.PathLike | None = None,
    options: dict[str, Any] | None = None, *, trust_stored_config: bool = False,
) -> tuple[Config, nn.Module, Any]:  # fmt: skip
    """Load a trained network.

    Args:
        path: Its config, or a packed file, which has one.
        checkpoint: Its weights. Default None: ``path`` is a packed file.
        options: Entries of the config to change. Default None.
        trust_stored_config: As :func:`load_packed`'s. Default False.

    Returns:
        The config; the network in eval mode; the meta data of its data set, None if
        the checkpoint holds none.

    Raises:
        InputError: If config or checkpoint cannot be read or do not fit, or there are
            options for a packed file.
        PackError: If the packed file cannot be loaded.
        OSError: If there is no such packed file.
    """
    if checkpoint is None:
        if options:
            raise InputError(
                f'options={options}: {path} is taken to be a packed file, whose config '
                'stays as it is'
            )
        model = load_packed(path, trust_stored_config=trust_stored_config)
        return model._config, model, model._dataset_meta
    cfg = load_config(path, options)
    model = build_model(cfg)
    load_weights(model, checkpoint)
    meta = read_checkpoint(checkpoint).get('meta') or {}
    return cfg, model.eval(), meta.get('dataset_meta')
