"""A trained network to export, from whichever files hold it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from ...checkpoints import CheckpointError, check_finite
from ...project import InputError, build_model, load_config, load_state, read_checkpoint
from ..packed.unpacking import load_packed


def load_trained(
    path: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    options: dict[str, Any] | None = None,
    *,
    trust_stored_config: bool = False,
    max_bytes: int | None = None,
) -> tuple[Config, nn.Module, Any]:
    """Load a trained network.

    Args:
        path: Config of the network, or a packed file, which has one.
        checkpoint: Weights of the network. Default None: ``path`` is a packed file.
        options: Entries of the config to change. Default None.
        trust_stored_config: As :func:`load_packed`'s. Default False.
        max_bytes: How much memory the content of the file with the weights may take
            up. Default None: 256 MB more than four times the file's size.

    Returns:
        The config; the network in eval mode, in float32; the meta data of its data set, None if
        the checkpoint holds none.

    Raises:
        InputError: If config or checkpoint cannot be read or do not fit, a weight is
            NaN or infinite, or there are options for a packed file.
        PackError: If the packed file cannot be loaded.
        OSError: If there is no such packed file.
    """
    if checkpoint is None:
        if options:
            raise InputError(
                f'options={options}: {path} is taken to be a packed file, whose config '
                'stays as it is'
            )
        model = load_packed(path, trust_stored_config=trust_stored_config, max_bytes=max_bytes)
        model.float()  # exports have no other floats; a config's network has none, either
        check_weights(model, path)
        return model._config, model, model._dataset_meta
    cfg = load_config(Path(path), options)
    model = build_model(cfg)
    weights = Path(checkpoint)
    content = read_checkpoint(weights, max_bytes)
    load_state(model, content, weights)
    check_weights(model, checkpoint)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    model.eval()
    return cfg, model, meta.get('dataset_meta')


def check_weights(model: nn.Module, name: Any) -> None:
    """Check that no weight is NaN or infinite, before a network is shipped.

    Args:
        model: The network.
        name: Name of the file, for the error.

    Raises:
        InputError: If a value is NaN or infinite; the message names the first.
    """
    try:
        check_finite(model.state_dict())
    except CheckpointError as error:
        raise InputError(f'{name}: {error}') from error
