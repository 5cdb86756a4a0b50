"""Hooks for everything that changes in training: schedules, clamps, checks."""

from .bottleneck import BottleneckHook
from .class_count import ClassCountHook
from .compile_blocks import CompileBlocksHook
from .compile_network import CompileNetworkHook
from .copy_diversity import CopyDiversityHook
from .copy_init import CopyInitHook
from .epoch_seed import EpochSeedHook
from .estimator_progress import EstimatorProgressHook
from .iter_seed import IterSeedHook
from .nan_guard import NaNGuardHook
from .parameter_bounds import ParameterBoundsHook
from .require_checkpoint import FittingCheckpointHook, RequireCheckpointHook
from .save_images import SaveImagesHook
from .sign_flip import SignFlipHook
from .teacher_schedule import TeacherScheduleHook
from .temperature import TemperatureHook
from .whole_checkpoint import WholeCheckpointHook

__all__ = [
    'BottleneckHook',
    'ClassCountHook',
    'CompileBlocksHook',
    'CompileNetworkHook',
    'CopyDiversityHook',
    'CopyInitHook',
    'EpochSeedHook',
    'EstimatorProgressHook',
    'FittingCheckpointHook',
    'IterSeedHook',
    'NaNGuardHook',
    'ParameterBoundsHook',
    'RequireCheckpointHook',
    'SaveImagesHook',
    'SignFlipHook',
    'TeacherScheduleHook',
    'TemperatureHook',
    'WholeCheckpointHook',
]
