"""Bounds that parameters are kept in."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..reach import trained_models


def bounded_parameters(model: nn.Module) -> list[tuple[Tensor, float, float]]:
    """The parameters of ``model`` that have bounds, each with low and high."""
    return [
        (getattr(module, name), *bounds)
        for module in model.modules()
        for name, bounds in getattr(module, 'parameter_bounds', {}).items()
    ]


@torch.no_grad()
def clamp_parameters(bounded: list[tuple[Tensor, float, float]]) -> None:
    """Clamp them in place."""
    for parameter, low, high in bounded:
        parameter.clamp_(low, high)


@HOOKS.register_module()
class ParameterBoundsHook(Hook):
    """Clamp parameters to the bounds that their modules name.

    A module names them as ``parameter_bounds = {'weight': (-1.5, 1.5)}``: latent
    weights of binary layers with ``latent_clip``, mixes of
    :class:`~mmesbnn.models.layers.RecoupledConv`. They are clamped before training,
    which matters for loaded weights, and after every optimizer step.

    The published code clamps at the beginning of the next forward instead. Every
    forward of a training sees the same values either way; ours also gets them into
    checkpoints and moving averages, and leaves ``forward`` without side effects.

    Raises:
        ValueError: Before training, if no module names any bounds.
    """

    # before the hooks that average parameters or save them
    priority = 'ABOVE_NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Find the bounded parameters and clamp them."""
        self._bounded = bounded_parameters(runner.model)
        if not self._bounded:
            raise ValueError(
                'ParameterBoundsHook: no module of the model has parameter_bounds: remove the hook'
            )
        # an average of values in bounds stays there, once it is
        for model in trained_models(runner):
            clamp_parameters(bounded_parameters(model))

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Clamp what the optimizer moved."""
        clamp_parameters(self._bounded)
