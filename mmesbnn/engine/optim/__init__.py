"""Optimizer constructors."""

from .binary_constructor import BinaryOptimWrapperConstructor

__all__ = ['BinaryOptimWrapperConstructor']
