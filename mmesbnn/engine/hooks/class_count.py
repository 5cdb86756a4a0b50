"""Does the head have the classes of the data?"""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compare the head's ``num_classes`` with the classes that a data set names.

    Otherwise a label that the head has no output for ends in an index error deep in the
    loss, on a GPU in one that names nothing at all. Data sets that do not name their
    classes, and models without such a head, are left alone.

    Raises:
        ValueError: Before training, validation or test, if the numbers differ.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare with the training data."""
        self._check(runner, 'train_dataloader', runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Compare with the validation data."""
        self._check(runner, 'val_dataloader', runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Compare with the test data."""
        self._check(runner, 'test_dataloader', runner.test_dataloader)

    def _check(self, runner: Runner, name: str, loader: Any) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        wanted = getattr(getattr(model, 'head', None), 'num_classes', None)
        classes = getattr(loader.dataset, 'metainfo', {}).get('classes')
        if wanted is None or classes is None or len(classes) == wanted:
            return
        raise ValueError(
            f'num_classes={wanted} in the head, but the data of {name} has '
            f'{len(classes)} classes'
        )
