"""Loss functions."""

from .bottleneck import BottleneckTerm, FeatureEnergyLoss, SparseObjectLoss, VariationalBoxes
from .hardness_kd import HardnessWeightedKDLoss

__all__ = [
    'BottleneckTerm',
    'FeatureEnergyLoss',
    'HardnessWeightedKDLoss',
    'SparseObjectLoss',
    'VariationalBoxes',
]
