"""Checks of the states of optimizers that a checkpoint gave a resumed training."""

from __future__ import annotations

from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from ..checkpoints import CheckpointError
from .reach import optim_wrappers


def _fits(name: str, value: Tensor, parameter: Tensor) -> bool:
    if name == 'step':
        return value.numel() == 1
    storage = value.untyped_storage().nbytes() // value.element_size()
    held = storage - value.storage_offset()  # strides of 0 show less data as more
    return value.shape == parameter.shape and held >= parameter.numel()


def _optimizers(wrapper: object) -> list[Optimizer]:
    return [one.optimizer for one in optim_wrappers(wrapper) if isinstance(one, OptimWrapper)]


def check_groups(wrapper: object) -> None:
    """Check that parameter groups have the options of their optimizer.

    Loading replaces the options by those of the checkpoint, whatever optimizer had them.

    Args:
        wrapper: The runner's ``optim_wrapper``. Only those of mmengine are checked.

    Raises:
        CheckpointError: If a group lacks an option.
    """
    for optimizer in _optimizers(wrapper):
        for group in optimizer.param_groups:
            missing = sorted(set(optimizer.defaults) - set(group))
            if missing:
                raise CheckpointError(
                    f'the checkpoint is of another optimizer than {type(optimizer).__name__}: its '
                    f'parameter groups lack {", ".join(missing)}: set the optimizer of the '
                    'checkpoint, or load the weights only (load_from instead of resume)'
                )


def check_schedulers(schedulers: object, checkpoint: dict[str, Any]) -> None:
    """Check that a checkpoint has a state for each scheduler; mmengine pairs them by place.

    Args:
        schedulers: The runner's ``param_schedulers``. Only a list of them is checked.
        checkpoint: Content of the file.

    Raises:
        CheckpointError: If the checkpoint has another number of states.
    """
    states = checkpoint.get('param_schedulers')
    if isinstance(schedulers, list) and isinstance(states, list) and len(states) != len(schedulers):
        raise CheckpointError(
            f'the checkpoint has the states of {len(states)} schedulers, but param_scheduler has '
            f'{len(schedulers)}: set that of the checkpoint, or load the weights only '
            '(load_from instead of resume)'
        )


def warn_of_missing(runner: Runner, checkpoint: dict[str, Any]) -> None:
    """Warn if the optimizer or the schedules of a resumed training begin anew.

    Args:
        runner: Runner that resumes.
        checkpoint: Content of the file. That of a best network has neither.
    """
    needed = ('optimizer', 'param_schedulers') if runner.param_schedulers else ('optimizer',)
    missing = [name for name in needed if name not in checkpoint]
    if missing:
        runner.logger.warning(
            f'the resumed checkpoint lacks {", ".join(missing)}, which begin anew: resume one '
            'that is not of the best network, with save_optimizer and save_param_scheduler, or '
            'load the weights only (load_from instead of resume)'
        )


def check_fused_states(wrapper: object) -> None:
    """Check the states of fused optimizers.

    The kernel of torch for CPUs reads and writes as many entries as the parameter has,
    whatever the shape of the state is. The checkpoint also says that the optimizer is fused.

    Args:
        wrapper: The runner's ``optim_wrapper``. Only those of mmengine are checked.

    Raises:
        CheckpointError: If a state does not fit its parameter.
    """
    for optimizer in _optimizers(wrapper):
        for group in optimizer.param_groups:
            for parameter in group['params'] if group.get('fused') else ():
                for name, value in optimizer.state.get(parameter, {}).items():
                    if isinstance(value, Tensor) and not _fits(name, value, parameter):
                        raise CheckpointError(
                            f'the checkpoint has a state {str(name)[:40]!r} of shape '
                            f'{tuple(value.shape)} for a parameter of shape '
                            f'{tuple(parameter.shape)}, which a fused optimizer cannot use'
                        )
