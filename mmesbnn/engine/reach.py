"""Functions that hooks share: about the modules that they change and the steps that they count.

``modules()`` also finds modules inside the wrappers of DDP and ``torch.compile``, so only
what needs the model's own methods is :func:`unwrapped`.
"""

from __future__ import annotations

from typing import Any, Protocol

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from ..binary import TemperatureWeight


def trained_models(runner: Runner) -> list[nn.Module]:
    """Return the model, and the moving averages of it that hooks keep."""
    averages = (getattr(hook, 'ema_model', None) for hook in runner.hooks)
    return [runner.model, *(model for model in averages if model is not None)]


def unwrapped(model: nn.Module) -> Any:
    """Return the model inside wrappers for distributed training and test-time augmentation."""
    inner: Any = model
    while is_model_wrapper(inner) or isinstance(inner, BaseTTAModel):
        inner = inner.module
    return inner


def optim_wrappers(wrapper: Any) -> list[Any]:
    """Return the wrappers of an ``OptimWrapperDict``, and any other wrapper itself."""
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def student_and_teacher(model: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """Return the two networks of mmdet's semi-supervised detectors; None for other models.

    The student trains, and the teacher is its moving average.
    """
    student, teacher = (getattr(unwrapped(model), x, None) for x in ('student', 'teacher'))
    if isinstance(student, nn.Module) and isinstance(teacher, nn.Module):
        return student, teacher
    return None


def temperature_weights(model: nn.Module) -> list[TemperatureWeight]:
    """Return the weight binarizers of ``model`` that have a temperature."""
    return [m for m in model.modules() if isinstance(m, TemperatureWeight)]


class _CountsSteps(Protocol):
    by_epoch: bool


def unit_of(hook: _CountsSteps) -> str:
    """Return what ``hook`` counts, ``'epoch'`` or ``'iteration'``."""
    return 'epoch' if hook.by_epoch else 'iteration'


def check_by_epoch(runner: Runner, hook: _CountsSteps) -> None:
    """Raise a ``ValueError`` if ``hook`` counts epochs and the training does not."""
    if hook.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
        raise ValueError(
            f'{type(hook).__name__}: by_epoch=True, but the training counts iterations '
            '(IterBasedTrainLoop): set by_epoch=False'
        )
