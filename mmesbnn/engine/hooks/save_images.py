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
from ...whole_files import check_results


def _pairs(dataset: Any) -> list[Any]:
    """Return the pairs of files of a ``PairedSRDataset``, also of those in wrappers."""
    own = getattr(dataset, 'pairs', None)
    if own is not None:
        return list(own)
    inner = [*getattr(dataset, 'datasets', ()), getattr(dataset, 'dataset', None)]
    return [pair for part in inner if part is not None for pair in _pairs(part)]


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

    def _path(self, set_name: str, name: str) -> Path:
        return self.out_dir / set_name / f'{name}.png'

    def before_test(self, runner: Runner) -> None:
        """Check that all images can be written, and replace none, also none of the data set.

        The data set is a :class:`~mmesbnn.datasets.PairedSRDataset`, or holds some, such as
        mmengine's ``ConcatDataset``.

        Raises:
            OSError: If an image cannot be written, or one that is read would be replaced.
            ValueError: If two images would be written to the same file.
        """
        pairs = _pairs(runner.test_dataloader.dataset)
        written: dict[Path, Any] = {}
        for pair in pairs:
            target = self._path(pair.set_name, pair.hr.stem)
            other = written.setdefault(target, pair)
            if other != pair:  # an image that is listed twice does not replace another
                raise ValueError(
                    f'{other.hr} and {pair.hr} would both become {target}: give their folders '
                    'different set_names'
                )
        check_results(written, (file for pair in pairs for file in (pair.hr, pair.lr)))

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Write the images of a batch."""
        for sample in outputs or ():
            write_png(self._path(sample['set_name'], sample['name']), sample['pred'])
