"""Training that must begin with the weights of another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from ...checkpoints import WRAPPER, misfits, state_dict_of
from ...checks import checked, filled_text, sequence


def is_training(runner: Runner) -> bool:
    """Return whether the runner was asked to train, rather than to validate or test."""
    return isinstance(runner._train_loop, BaseLoop)


def check_fit(runner: Runner, checkpoint: dict[str, Any], new: Sequence[str] = ()) -> None:
    """Raise a ``ValueError`` if a checkpoint does not fit the runner's model.

    Args:
        runner: The runner.
        checkpoint: What was read from the file.
        new: Beginnings of the names that may differ.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    # mmengine strips the prefix of each key, so this does not ask for all
    state = {key.removeprefix(WRAPPER): value for key, value in state_dict_of(checkpoint).items()}
    parts = [
        {k: v for k, v in entries.items() if not k.startswith(tuple(new))}
        for entries in (state, model.state_dict())
    ]
    differences = misfits(*parts)
    if differences:
        raise ValueError(
            'the checkpoint does not fit the model: of its entries ' + ', '.join(differences)
        )


@HOOKS.register_module()
class RequireCheckpointHook(Hook):
    """Begin a training only with a checkpoint, and one that fits in every entry.

    For the later stages of a training. mmengine loads what fits and goes on without
    what does not, and ``resume=True`` without anything to resume starts from scratch;
    so the published second stage of ReActNet-A trains random weights, because names
    differ between its stages.

    Args:
        new: Beginnings of the names that need not fit, such as ``('head.',)`` for a
            head of other classes, which starts as it is initialised. Default none.

    Raises:
        ValueError: When a checkpoint is loaded (``load_from``, resuming, testing), if
            an entry is missing, unknown or of another shape; before training, if none
            was loaded. When testing and resuming, ``new`` entries must fit, too.
    """

    @checked(new=sequence(filled_text))
    def __init__(self, new: Sequence[str] = ()) -> None:
        self.new = tuple(new)
        self._loaded = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare with the model, before anything is copied there."""
        starts = is_training(runner) and not runner._resume
        check_fit(runner, checkpoint, self.new if starts else ())
        self._loaded = True

    def before_train(self, runner: Runner) -> None:
        """Check that there was one."""
        if not self._loaded:
            raise ValueError(
                'this training begins with the weights of another one, and no '
                'checkpoint was loaded: set load_from'
            )


@HOOKS.register_module()
class FittingCheckpointHook(Hook):
    """Test and validate nothing but a checkpoint that fits in every entry.

    mmengine prints what does not fit, and goes on to score a network that is random in
    part: one of another ``tau``, or with other classes. Loading before a training is
    left to it.

    Raises:
        ValueError: When a checkpoint is loaded to test or validate, if an entry is
            missing, unknown or of another shape.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare with the model, before anything is copied there."""
        if not is_training(runner):
            check_fit(runner, checkpoint)
