"""Hook that keeps parameters within bounds."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ...binary.computed import MAKE_PARAMETER, sources_of
from ..reach import trained_models


def bounded_parameters(model: nn.Module) -> list[tuple[Tensor, float, float]]:
    """Return the parameters of ``model`` that have bounds, each with low and high.

    Raises:
        ValueError: If one of them is computed from other parameters.
    """
    found = []
    for prefix, module in model.named_modules():
        for name, bounds in getattr(module, 'parameter_bounds', {}).items():
            if sources_of(module, name):
                raise ValueError(
                    f'ParameterBoundsHook: the {name} of {prefix!r} is computed from other '
                    f'parameters and cannot be kept within {bounds}: {MAKE_PARAMETER}'
                )
            found.append((getattr(module, name), *bounds))
    return found


@torch.no_grad()
def clamp_parameters(bounded: list[tuple[Tensor, float, float]]) -> None:
    """Clamp the parameters in place."""
    for parameter, low, high in bounded:
        parameter.clamp_(low, high)


@HOOKS.register_module()
class ParameterBoundsHook(Hook):
    """Hook that clamps parameters to the bounds that their modules define.

    A module defines them as ``parameter_bounds = {'weight': (-1.5, 1.5)}``. Examples are the
    latent weights of binary layers with ``latent_clip``, and the mixes of
    :class:`~mmesbnn.models.layers.RecoupledConv`. Parameters are clamped before training,
    which matters for loaded weights, and after every optimizer step.

    The published code clamps at the beginning of the next forward instead. The values in
    every forward of a training are the same. With the hook they are also clamped in
    checkpoints and moving averages, and ``forward`` has no side effects.

    Raises:
        ValueError: Before training, if no module defines bounds, or if a parameter with
            bounds is computed from others, such as by a weight norm.
    """

    # runs before the hooks that average or save parameters
    priority = 'ABOVE_NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Find the bounded parameters and clamp them."""
        self._bounded = bounded_parameters(runner.model)
        if not self._bounded:
            raise ValueError(
                'ParameterBoundsHook: no module of the model has parameter_bounds: remove the hook'
            )
        # an average of values within bounds stays within them
        for model in trained_models(runner):
            clamp_parameters(bounded_parameters(model))

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Clamp the parameters after the optimizer step."""
        clamp_parameters(self._bounded)
