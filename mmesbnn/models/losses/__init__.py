"""Loss functions."""

from .hardness_kd import HardnessWeightedKDLoss

__all__ = ['HardnessWeightedKDLoss']
