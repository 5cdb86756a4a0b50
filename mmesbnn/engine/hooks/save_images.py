"""Hook that saves the predicted images of a test as files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checks import checked
from ...images.tensors import write_png


@HOOKS.register_module()
class SaveImagesHook(Hook):
    """Hook that writes the images of a test as ``out_dir/<set>/<name>.png``.

    It is for models that predict dicts with ``pred``, uint8 ``(3, H, W)``, ``set_name`` and
    ``name``, such as :class:`~mmesbnn.models.restorers.SRDiffusion`.

    Args:
        out_dir: Folder to write to. It is created if needed.
    """

    @checked()
    def __init__(self, out_dir: str | os.PathLike[str]) -> None:
        self.out_dir = Path(out_dir)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Write the images of a batch."""
        for sample in outputs or ():
            path = self.out_dir / sample['set_name'] / f'{sample["name"]}.png'
            write_png(path, sample['pred'])
