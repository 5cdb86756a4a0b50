"""The temperatures of a training, from what the user gives of them."""

from __future__ import annotations

import math
from typing import NamedTuple


class TemperatureSchedule(NamedTuple):
    """Temperatures ``T = initial * decay^step``, steps counted from 0.

    Attributes:
        initial: Temperature of step 0.
        decay: Factor per step.
        binary_from: First step at which weights are exactly +-1.
    """

    initial: float
    decay: float
    binary_from: int

    def temperature(self, step: int) -> float:
        """Temperature of epoch (or iteration) ``step``."""
        return self.initial * self.decay**step


def temperature_schedule(
    below: float,
    *,
    initial: float = 1.0,
    decay: float | None = None,
    binary_from: int | None = None,
) -> TemperatureSchedule:
    """Complete a schedule: ``decay`` from ``binary_from`` or the other way round.

    ``decay = (below / initial)^(1 / (binary_from - 1/2))``: ``T`` is ``below`` half a step
    earlier, so that rounding cannot shift the step. An ``initial`` under ``below`` holds
    the weights binary: then ``decay`` is 1.

    Args:
        below: Temperature under which weights are binary.
        initial: Temperature of step 0. Default 1.
        decay: Factor per step, between 0 and 1.
        binary_from: Instead of ``decay``: first step at which weights are binary, at
            least 1.

    Raises:
        ValueError: If not exactly one of the last two is given, if ``initial`` is
            ``below``, or if ``binary_from`` is given for an ``initial`` under it.
    """
    if (decay is None) == (binary_from is None):
        raise ValueError(f'decay={decay}, binary_from={binary_from}: give one of them')
    if initial < below:
        if binary_from is not None:
            raise ValueError(
                f'initial={initial}, binary_from={binary_from}: weights are binary below '
                f'{below} from the beginning: leave binary_from out'
            )
        return TemperatureSchedule(initial, 1.0, 0)
    if initial == below:
        raise ValueError(
            f'initial={initial} must not be exactly the temperature under which weights are binary'
        )
    hardening = math.log(below / initial)
    if binary_from is not None:
        decay = math.exp(hardening / (binary_from - 0.5))
        return TemperatureSchedule(initial, decay, binary_from)
    assert decay is not None  # one of them was given
    return TemperatureSchedule(initial, decay, math.floor(hardening / math.log(decay)) + 1)
