"""Reader of checkpoints from any source, and comparison with a network's entries."""

from .limits import CheckpointError
from .mmengine_loader import register_loaders
from .reading import lacks_memory, metadata_of, read_checkpoint, read_tensors
from .state_dicts import (
    WRAPPER,
    check_finite,
    check_numbers,
    listed,
    misfits,
    read_by,
    state_dict_of,
    strip_wrapper,
    why_not_filled,
    with_versions,
)

__all__ = [
    'WRAPPER',
    'CheckpointError',
    'check_finite',
    'check_numbers',
    'lacks_memory',
    'listed',
    'metadata_of',
    'misfits',
    'read_by',
    'read_checkpoint',
    'read_tensors',
    'register_loaders',
    'state_dict_of',
    'strip_wrapper',
    'why_not_filled',
    'with_versions',
]
