"""Gradients that an optimizer has not used yet, for checkpoints within an accumulation."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor

from ..checkpoints import CheckpointError
from .reach import unwrapped

#: Entry of a checkpoint with the gradients by the names of their parameters.
ENTRY = 'pending_gradients'


def _are_pending(runner: Runner) -> bool:
    """Return True if the last iteration added to gradients without a step of the optimizer."""
    wrapper = runner.optim_wrapper
    return isinstance(wrapper, OptimWrapper) and not wrapper.should_update()


def share_gradients(runner: Runner) -> None:
    """Give all processes the mean of their pending gradients, which is saved.

    DDP averages gradients at the step only. The mean of equal means is the mean.
    """
    if not _are_pending(runner):
        return
    parameters = list(unwrapped(runner.model).parameters())
    # a process may lack a gradient of a part that it did not run
    has = [int(p.grad is not None) for p in parameters]
    some = torch.tensor(has, device=parameters[0].device)
    all_reduce(some, 'max')
    for parameter, is_there in zip(parameters, some.tolist(), strict=True):
        if is_there:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            all_reduce(parameter.grad, 'mean')


def save_gradients(runner: Runner, checkpoint: dict[str, Any]) -> None:
    """Add the pending gradients to ``checkpoint``, if there are any."""
    if _are_pending(runner):
        named = unwrapped(runner.model).named_parameters()
        checkpoint[ENTRY] = {name: p.grad.cpu() for name, p in named if p.grad is not None}


def load_gradients(runner: Runner, checkpoint: dict[str, Any]) -> None:
    """Give the parameters of a resumed training the gradients of ``checkpoint``.

    Raises:
        CheckpointError: If a gradient does not fit its parameter.
    """
    saved = checkpoint.get(ENTRY, {})
    for name, parameter in unwrapped(runner.model).named_parameters():
        if name in saved:
            gradient = saved[name]
            if not isinstance(gradient, Tensor) or gradient.shape != parameter.shape:
                raise CheckpointError(
                    f'{ENTRY} of the checkpoint: {name!r} does not fit the parameter of shape '
                    f'{tuple(parameter.shape)}'
                )
            parameter.grad = gradient.to(parameter)
