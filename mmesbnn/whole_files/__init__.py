"""Writing of files and folders that appear complete or not at all."""

from .leftovers import remove_leftovers
from .partial import DISK_ERRORS, remove_unfinished
from .results import check_results, result_path
from .writing import (
    check_file,
    check_folder,
    check_place,
    check_unread,
    is_filled,
    read_whole,
    whole_file,
    whole_folder,
)

__all__ = [
    'DISK_ERRORS',
    'check_file',
    'check_folder',
    'check_place',
    'check_results',
    'check_unread',
    'is_filled',
    'read_whole',
    'remove_leftovers',
    'remove_unfinished',
    'result_path',
    'whole_file',
    'whole_folder',
]
