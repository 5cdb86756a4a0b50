"""Hook that leaves what is around the network out of a compiled training step."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..reach import optim_wrappers, unwrapped


@HOOKS.register_module()
class CompileNetworkHook(Hook):
    """Hook that leaves the network alone to be compiled by ``compile=True``.

    mmengine compiles the whole training step. The graph of a data preprocessor has operators
    for every image of the batch, which take long to compile and are not faster then. Code of
    the update of parameters depends on numbers that are logged, so it is compiled again in
    later steps; the gain is nothing with a fused optimizer. With this hook both run as they are.
    Forward and backward pass are compiled as before. Without ``compile`` nothing changes.
    """

    def before_train(self, runner: Runner) -> None:
        """Leave both out of what ``torch.compile`` traces."""
        if not runner.cfg.get('compile'):
            return  # importing torch's compiler takes seconds
        for owner, name in _around_the_network(runner):
            setattr(owner, name, torch.compiler.disable(getattr(owner, name)))

    def after_train(self, runner: Runner) -> None:
        """Give both back, so that copies of them do not hold the original ones."""
        for owner, name in _around_the_network(runner):
            vars(owner).pop(name, None)


def _around_the_network(runner: Runner) -> list[tuple[Any, str]]:
    preprocessor = getattr(unwrapped(runner.model), 'data_preprocessor', None)
    found = [] if preprocessor is None else [(preprocessor, 'forward')]
    return [*found, *((one, 'update_params') for one in optim_wrappers(runner.optim_wrapper))]
