"""A project as its config describes it: scope, model, image size, data, weights."""

from .config import (
    InputError,
    build_model,
    deployed_config,
    explained,
    image_size,
    input_shape,
    load_config,
    load_state,
    load_weights,
    read_checkpoint,
    real_batch,
    scope_of,
)

__all__ = [
    'InputError',
    'build_model',
    'deployed_config',
    'explained',
    'image_size',
    'input_shape',
    'load_config',
    'load_state',
    'load_weights',
    'read_checkpoint',
    'real_batch',
    'scope_of',
]
