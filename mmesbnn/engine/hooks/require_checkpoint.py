"""Training that must begin with the weights of another one."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

#: What ``DataParallel`` puts before every key; mmengine removes it, too.
_WRAPPER = 'module.'


def _some(names: list[str], limit: int = 3) -> str:
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def misfits(state: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """How a checkpoint's entries differ from a model's, a phrase per kind.

    Args:
        state: The checkpoint's state dict.
        own: The model's.
    """
    shared = [name for name in own if name in state]
    kinds = {
        'are missing': [name for name in own if name not in state],
        'are unknown': [name for name in state if name not in own],
        'have another shape': [k for k in shared if state[k].shape != own[k].shape],
    }
    return [f'{len(v)} {kind} ({_some(v)})' for kind, v in kinds.items() if v]


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
        state = checkpoint.get('state_dict', checkpoint)
        state = {key.removeprefix(_WRAPPER): value for key, value in state.items()}
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
