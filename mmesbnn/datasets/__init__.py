"""Data sets that OpenMMLab lacks: small sets of real images, super-resolution pairs."""

from mmengine.registry import DATASETS

from ..optional import register_detection
from .digits import write_digits
from .mini_voc import VOC_CLASSES, MiniVOC, write_mini_voc
from .paired_sr import PairedSRDataset
from .photographs import write_photographs
from .seeded_concat import SeededConcatDataset
from .seeded_sampler import SeededInfiniteSampler

register_detection(DATASETS, 'CheckedVOCDataset', f'{__name__}.checked_voc')

__all__ = [
    'VOC_CLASSES',
    'MiniVOC',
    'PairedSRDataset',
    'SeededConcatDataset',
    'SeededInfiniteSampler',
    'write_digits',
    'write_mini_voc',
    'write_photographs',
]
