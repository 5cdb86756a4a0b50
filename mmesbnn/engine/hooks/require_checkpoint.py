"""Training that must begin with the weights of another one."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checkpoints import WRAPPER, misfits, state_dict_of


@HOOKS.register_module()
class RequireCheckpointHook(Hook):
    """Begin a training only with a checkpoint, and one that fits in every entry.

    For the later stages of a training. mmengine loads what fits and goes on without
    what does not, and ``resume=True`` without anything to resume starts from scratch;
    so the published second stage of ReActNet-A trains random weights, because names
    differ between its stages.

    Raises:
        ValueError: When a checkpoint is loaded (``load_from``, resuming, testing), if
            an entry is missing, unknown or of another shape; before training, if none
            was loaded.
    """

    def __init__(self) -> None:
        self._loaded = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare with the model, before anything is copied there."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # mmengine strips the prefix of each key, so this does not ask for all
        state = {
            key.removeprefix(WRAPPER): value
            for key, value in state_dict_of(checkpoint).items()
        }
        found = misfits(state, model.state_dict())
        if found:
            raise ValueError(
                'the checkpoint does not fit the model: of its entries '
                + ', '.join(found)
            )
        self._loaded = True

    def before_train(self, runner: Runner) -> None:
        """Check that there was one."""
        if not self._loaded:
            raise ValueError(
                'this training begins with the weights of another one, and no '
                'checkpoint was loaded: set load_from'
            )
