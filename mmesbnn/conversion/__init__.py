"""Readers of published checkpoints, one file per family."""

from .common import Conversion, ConversionError, Family
from .convert import FAMILIES, convert, convert_file, load_published
from .sr_pipeline import load_sr_pipeline

__all__ = [
    'FAMILIES',
    'Conversion',
    'ConversionError',
    'Family',
    'convert',
    'convert_file',
    'load_published',
    'load_sr_pipeline',
]
