"""Analysis of a network without training: operations, sizes, signs."""

from ..binary.weight_values import check_weight
from ..project import (
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
)
from .binary_check import Finding, check_binary, check_input
from .capacity import LayerCapacity, measure_capacity
from .ops import count_ops
from .regions import most_regions
from .report import LayerOps, OpsReport, representation_capacity, save_json

__all__ = [
    'Finding',
    'InputError',
    'LayerCapacity',
    'LayerOps',
    'OpsReport',
    'build_model',
    'check_binary',
    'check_input',
    'check_weight',
    'count_ops',
    'deployed_config',
    'explained',
    'image_size',
    'input_shape',
    'load_config',
    'load_state',
    'load_weights',
    'measure_capacity',
    'most_regions',
    'read_checkpoint',
    'real_batch',
    'representation_capacity',
    'save_json',
]
