"""Datasets one after the other, whose random numbers depend on the draw only."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.dataset import ConcatDataset
from mmengine.registry import DATASETS


@DATASETS.register_module()
class SeededConcatDataset(ConcatDataset):
    """mmengine's ``ConcatDataset`` for :class:`SeededInfiniteSampler`.

    Takes ``(index, seed)``, and seeds all random numbers that transforms of OpenMMLab
    use, Python's, NumPy's and torch's, before it reads the image. So neither the number
    of workers nor an interruption changes what a training sees. An index alone is
    read as by ``ConcatDataset``.

    Args:
        datasets: The datasets, or their configs. One is enough.
        lazy_init: Whether to read their lists later. Default False.
        ignore_keys: Keys of their ``metainfo`` that may differ. Default None.
    """

    def __getitem__(self, key: int | tuple[int, tuple[int, int]]) -> Any:
        if not isinstance(key, tuple):
            return super().__getitem__(key)
        index, entropy = key
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return super().__getitem__(index)
