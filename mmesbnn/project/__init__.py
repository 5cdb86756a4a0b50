"""Reading of a project from its config: scope, model, image size, data, weights."""

from .config import build_model, deployed_config, load_config, scope_of, type_name
from .data import (
    FACTS,
    build_test_loader,
    class_names,
    dataset_meta,
    gives_rgb,
    image_facts,
    image_size,
    input_channels,
    input_shape,
    reads_rgb,
    real_batch,
    stored_test_data,
    testing_pipeline,
)
from .errors import InputError, explained
from .weights import load_state, load_weights, read_checkpoint

__all__ = [
    'FACTS',
    'InputError',
    'build_model',
    'build_test_loader',
    'class_names',
    'dataset_meta',
    'deployed_config',
    'explained',
    'gives_rgb',
    'image_facts',
    'image_size',
    'input_channels',
    'input_shape',
    'load_config',
    'load_state',
    'load_weights',
    'read_checkpoint',
    'reads_rgb',
    'real_batch',
    'scope_of',
    'stored_test_data',
    'testing_pipeline',
    'type_name',
]
