"""Hooks that check that a loaded checkpoint fits the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from ...checkpoints import WRAPPER, misfits, read_by, state_dict_of
from ...checks import checked, filled_text, sequence
from ..reach import unwrapped


def is_training(runner: Runner) -> bool:
    """Return True if the runner trains, False if it validates or tests."""
    return isinstance(runner._train_loop, BaseLoop)


def check_fit(runner: Runner, checkpoint: dict[str, Any], new: Sequence[str] = ()) -> None:
    """Raise a ``ValueError`` if a checkpoint does not fit the runner's model.

    Args:
        runner: Runner with the model.
        checkpoint: Content of the file.
        new: Prefixes of the names that may differ. Default ``()``.
    """
    model = unwrapped(runner.model)
    # mmengine strips the prefix of each key, so this does not ask for all
    state = {key.removeprefix(WRAPPER): value for key, value in state_dict_of(checkpoint).items()}
    parts = [
        {k: v for k, v in entries.items() if not k.startswith(tuple(new))}
        for entries in (read_by(model, state), model.state_dict())
    ]
    differences = misfits(*parts)
    if differences:
        raise ValueError(
            'the checkpoint does not fit the model: of its entries ' + ', '.join(differences)
        )


@HOOKS.register_module()
class RequireCheckpointHook(Hook):
    """Hook that starts a training only from a checkpoint that matches in every entry.

    It is for the later stages of a training. mmengine loads the entries that match and
    ignores all others. ``resume=True`` without a checkpoint starts from scratch. For these
    reasons the published second stage of ReActNet-A trains random weights: the names differ
    between its stages.

    Args:
        new: Prefixes of the names that need not match, such as ``('head.',)`` for a head
            with other classes, which keeps its initialisation. Default ``()``.

    Raises:
        ValueError: When a checkpoint is loaded (``load_from``, resuming, testing), if an
            entry is missing, is unknown or has another shape; before training, if no
            checkpoint was loaded. In testing and resuming, ``new`` entries must match, too.
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
        """Check that a checkpoint was loaded."""
        if not self._loaded:
            raise ValueError(
                'this training must start from the weights of another one, but no '
                'checkpoint was loaded: set load_from'
            )


@HOOKS.register_module()
class FittingCheckpointHook(Hook):
    """Hook that tests and validates only a checkpoint that matches in every entry.

    mmengine only prints the entries that do not match, for example those of another ``tau``
    or of other classes, and then tests a network that is partly random. The hook does not
    check a checkpoint that is loaded before a training.

    Raises:
        ValueError: When a checkpoint is loaded to test or validate, if an entry is
            missing, unknown or of another shape.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare with the model, before anything is copied there."""
        if not is_training(runner):
            check_fit(runner, checkpoint)
