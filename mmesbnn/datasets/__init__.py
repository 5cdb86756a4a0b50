"""Data that the ecosystem lacks: small, real, bundled with libraries."""

from .digits import write_digits
from .mini_voc import VOC_CLASSES, MiniVOC, write_mini_voc

__all__ = ['VOC_CLASSES', 'MiniVOC', 'write_digits', 'write_mini_voc']
