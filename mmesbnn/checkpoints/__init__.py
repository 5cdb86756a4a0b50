"""Reading checkpoints from anywhere: the one reader, and what does not fit."""

from .limits import CheckpointError
from .mmengine_loader import register_loaders
from .reading import read_checkpoint
from .safetensors_files import read_safetensors
from .state_dicts import (
    WRAPPER,
    check_finite,
    check_numbers,
    listed,
    misfits,
    state_dict_of,
    strip_wrapper,
)

__all__ = [
    'WRAPPER',
    'CheckpointError',
    'check_finite',
    'check_numbers',
    'listed',
    'misfits',
    'read_checkpoint',
    'read_safetensors',
    'register_loaders',
    'state_dict_of',
    'strip_wrapper',
]
