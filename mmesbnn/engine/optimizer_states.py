"""Check of the states of optimizers that a checkpoint gave a resumed training."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor
from torch.optim import Optimizer

from ..checkpoints import CheckpointError


def _optimizers(wrapper: object) -> Iterator[Optimizer]:
    if isinstance(wrapper, OptimWrapperDict):
        for one in wrapper.optim_wrappers.values():
            yield from _optimizers(one)
    elif isinstance(wrapper, OptimWrapper):
        yield wrapper.optimizer


def _fits(name: str, value: Tensor, parameter: Tensor) -> bool:
    if name == 'step':
        return value.numel() == 1
    storage = value.untyped_storage().nbytes() // value.element_size()
    held = storage - value.storage_offset()  # strides of 0 show less data as more
    return value.shape == parameter.shape and held >= parameter.numel()


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
