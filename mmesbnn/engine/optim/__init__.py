"""Optimizers and their constructors."""

from .binary_constructor import BinaryOptimWrapperConstructor
from .bop import Bop, BopOptimWrapperConstructor

__all__ = ['BinaryOptimWrapperConstructor', 'Bop', 'BopOptimWrapperConstructor']
