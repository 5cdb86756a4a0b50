"""Training: hooks, optimizer constructors, and the loading of checkpoints."""

from .hooks import (
    NaNGuardHook,
    ParameterBoundsHook,
    SignFlipHook,
    TeacherScheduleHook,
    TemperatureHook,
)
from .optim import BinaryOptimWrapperConstructor
from .safe_load import allow_mmengine_checkpoints

allow_mmengine_checkpoints()

__all__ = [
    'BinaryOptimWrapperConstructor',
    'NaNGuardHook',
    'ParameterBoundsHook',
    'SignFlipHook',
    'TeacherScheduleHook',
    'TemperatureHook',
    'allow_mmengine_checkpoints',
]
