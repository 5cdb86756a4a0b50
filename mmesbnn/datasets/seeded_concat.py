"""Concatenation of datasets whose random numbers depend on the number of the draw only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.registry import DATASETS

from ..checks import checked, instance, sequence

_DATASET = instance((dict, BaseDataset), 'a dataset of mmengine or its config')


@DATASETS.register_module()
class SeededConcatDataset(ConcatDataset):
    """mmengine's ``ConcatDataset`` for :class:`SeededInfiniteSampler`.

    Its index is ``(index, seed)``. Before it reads the image, it seeds the generators that
    transforms of OpenMMLab use: Python's, NumPy's and torch's. The data of a training
    therefore depend neither on the number of workers nor on interruptions. A plain index
    works as in ``ConcatDataset``.

    Args:
        datasets: Datasets, or their configs; at least one.
        lazy_init: Whether to read their lists later. Default False.
        ignore_keys: Keys of their ``metainfo`` that may differ. Default None.
    """

    @checked(datasets=sequence(_DATASET, shortest=1))
    def __init__(
        self,
        datasets: Sequence[BaseDataset | dict[str, Any]],
        lazy_init: bool = False,
        ignore_keys: str | list[str] | None = None,
    ) -> None:
        super().__init__(datasets, lazy_init, ignore_keys)

    def __getitem__(self, key: int | tuple[int, tuple[int, int]]) -> Any:
        if not isinstance(key, tuple):
            return super().__getitem__(key)
        index, entropy = key
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return super().__getitem__(index)
