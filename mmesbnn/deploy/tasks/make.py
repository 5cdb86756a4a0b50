"""Choice of the task that exports a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ...binary.modes import plain_defaults
from ...checks import checked, mapping, optional, positive_int, sequence
from ...project.config import CONFIG, MODEL
from ..runtime.manifest import ExportError
from .export_task import ExportTask, all_exports


@checked(
    cfg=CONFIG,
    model=MODEL,
    size=optional(sequence(positive_int, length=2)),
    count=positive_int,
    dataset_meta=optional(mapping()),
)
@plain_defaults()  # networks for export have float32
def make_task(
    cfg: Config,
    model: nn.Module,
    size: Sequence[int] | None = None,
    count: int = 4,
    dataset_meta: Mapping[str, Any] | None = None,
) -> ExportTask:
    """Describe how ``model`` is exported.

    Args:
        cfg: Config of the network, of mmpretrain, mmdet, or one with ``SRDiffusion``.
        model: Network built from the config, with its weights.
        size: Height and width of the images. Default None: the config's.
        count: Number of images on which to try the export. Default 4.
        dataset_meta: Meta data in the checkpoint, for the names of classes. Default None.

    Raises:
        ExportError: If this kind of network is not exported, or its weights are not float32.
    """
    kinds = {str(x.dtype) for x in model.parameters() if x.is_floating_point()}
    if kinds and str(torch.float32) not in kinds:
        raise ExportError(
            f'the network has weights of {", ".join(sorted(kinds))}: must be torch.float32, as '
            'after network.float()'
        )
    task = next(task for task in all_exports() if task.accepts(cfg, model))
    return task.make(cfg, model, size=size, count=count, dataset_meta=dataset_meta)
